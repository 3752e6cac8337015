//! The prompt of `polybolos sql`: lines until a statement is complete, history, names completed with Tab, and the commands that hands
//! which know psql type.
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use polybolos_service::exit;
use polybolos_sql::names::quoted;
use rustyline::{
    CompletionType, Config, Editor, Helper, completion::Completer, error::ReadlineError, highlight::Highlighter, hint::Hinter,
    history::DefaultHistory, validate::Validator,
};

use crate::{
    client::{Client, Rows},
    output::Format,
    sql::statements,
};

const HISTORY: usize = 1_000;

const HELP: &str = "\
A statement ends with a semicolon, and may have several lines. Ctrl-C cancels it, Ctrl-D leaves; Tab completes names.
  \\d           tables; \\dv views, \\dj jobs
  \\d NAME      columns of a table or view
  \\x           a line per column instead of a table, and back
  \\timing      how long statements take, or no longer
  \\i FILE      run a file
  \\q           leave
SHOW JOBS, EXPLAIN … and SELECT * FROM polybolos.jobs tell more; docs/reference/sql.md has all statements.";

/// What is no SQL.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Quit,
    Timing,
    Records,
    /// Short for a statement.
    Run(String),
    File(PathBuf),
    Unknown(String),
}

impl Command {
    /// `None`: it is SQL.
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let show = |what: &str| Some(Self::Run(format!("SHOW {what}")));
        match (word, rest.trim()) {
            ("help" | "\\?" | "\\h", "") => Some(Self::Help),
            ("exit" | "quit" | "\\q", "") => Some(Self::Quit),
            ("\\timing", "") => Some(Self::Timing),
            ("\\x", "") => Some(Self::Records),
            ("\\d" | "\\d+" | "\\dt" | "\\dt+", "") => show("TABLES"),
            ("\\dv", "") => show("VIEWS"),
            ("\\dj", "") => show("JOBS"),
            ("\\d" | "\\d+", name) => Some(Self::Run(format!("DESCRIBE {name}"))),
            ("\\i", file) if !file.is_empty() => Some(Self::File(file.into())),
            _ if word.starts_with('\\') => Some(Self::Unknown(word.to_owned())),
            _ => None,
        }
    }
}

/// Names to complete with Tab.
struct Names(Vec<String>);

impl Names {
    /// Those that the platform tells; the prompt does without the others. One that does not answer is not asked for more.
    async fn ask(client: &Client) -> Self {
        let mut names = Vec::new();
        for (sql, column, schema) in [
            ("SHOW TABLES", "table_name", ""),
            ("SHOW VIEWS", "view_name", ""),
            ("SHOW JOBS", "name", ""),
            ("SELECT table_name FROM information_schema.tables WHERE table_schema = 'polybolos'", "table_name", "polybolos."),
        ] {
            let Ok(rows) = client.sql(sql, 10_000).await else { break };
            names.extend(of_column(&rows, column).into_iter().map(|name| format!("{schema}{name}")));
        }
        names.sort();
        names.dedup();
        Self(names)
    }

    /// Where the word before the cursor begins, and the names that begin with it. Tab without a word stands in a text that is pasted.
    fn complete(&self, line: &str, cursor: usize) -> (usize, Vec<String>) {
        let before = &line[..cursor];
        let is_of_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.' | '"');
        let word = &before[before.trim_end_matches(is_of_name).len()..];
        if word.is_empty() {
            return (cursor, Vec::new());
        }
        let begins = |name: &&String| name.to_lowercase().starts_with(&word.to_lowercase());
        (cursor - word.len(), self.0.iter().filter(begins).cloned().collect())
    }
}

/// As SQL writes them.
fn of_column(rows: &Rows, column: &str) -> Vec<String> {
    let Some(index) = rows.columns.iter().position(|found| found.name == column) else { return Vec::new() };
    let names = rows.rows.iter().filter_map(|row| row[index].as_str());
    names.map(quoted).collect()
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.complete(line, cursor))
    }
}

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {}
impl Validator for Names {}
impl Helper for Names {}

struct Prompt<'a> {
    client: &'a Client,
    limit: Option<usize>,
    output: Format,
    tells_time: bool,
}

pub async fn run(client: &Client, limit: Option<usize>, output: Format) -> anyhow::Result<()> {
    let config = Config::builder().completion_type(CompletionType::List).max_history_size(HISTORY)?.build();
    let mut editor: Editor<Names, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Names::ask(client).await));
    let history = std::env::home_dir().map(|home| home.join(".polybolos_history"));
    if let Some(history) = &history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    println!("Statements end with a semicolon. \\? tells what else there is, \\d shows tables, SHOW JOBS jobs; Ctrl-D leaves.");
    // From here on Ctrl-C ends what is waited for, and not this process.
    let _interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut prompt = Prompt { client, limit, output, tells_time: true };
    let mut pending = String::new();
    loop {
        let line = match editor.readline(if pending.is_empty() { "polybolos> " } else { "       ...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        // No statement has begun, so that what comes next may be a command.
        if pending.is_empty() && line.trim().is_empty() {
            continue;
        }
        let command = if pending.is_empty() { Command::read(&line) } else { None };
        if let Some(command) = command {
            let _ = editor.add_history_entry(line.trim_end());
            if command == Command::Quit {
                break;
            }
            let runs_file = matches!(command, Command::File(_));
            prompt.obey(command).await;
            if runs_file {
                editor.set_helper(Some(Names::ask(client).await));
            }
            continue;
        }
        pending.push_str(&line);
        pending.push('\n');
        if !polybolos_sql::parser::is_complete(&pending) {
            continue;
        }
        let script = std::mem::take(&mut pending);
        let _ = editor.add_history_entry(script.trim_end());
        prompt.run(&script).await;
        if changes_names(&script) {
            editor.set_helper(Some(Names::ask(client).await));
        }
    }
    if let Some(history) = &history {
        editor.save_history(history).with_context(|| format!("cannot write {}", history.display()))?;
    }
    Ok(())
}

fn changes_names(script: &str) -> bool {
    let script = script.to_ascii_uppercase();
    ["CREATE", "DROP"].iter().any(|word| script.contains(word))
}

impl Prompt<'_> {
    async fn obey(&mut self, command: Command) {
        match command {
            Command::Quit => {}
            Command::Help => println!("{HELP}"),
            Command::Timing => {
                self.tells_time = !self.tells_time;
                println!("times are {}", if self.tells_time { "shown" } else { "not shown" });
            }
            Command::Records => {
                let is_on = self.output == Format::Records;
                self.output = if is_on { Format::Table } else { Format::Records };
                println!("answers are shown {}", if is_on { "as tables" } else { "with a line per column" });
            }
            Command::Run(sql) => self.run(&sql).await,
            Command::File(file) => match read(&file) {
                Ok(script) => self.run(&script).await,
                Err(error) => eprintln!("error: {}", exit::told(&error)),
            },
            Command::Unknown(word) => eprintln!("error: there is no command {word}; \\? lists all"),
        }
    }

    /// Ctrl-C ends the waiting, and with it what only reads.
    async fn run(&self, script: &str) {
        let started = Instant::now();
        let ran = tokio::select! {
            // First, as rows without an end are ended by the same.
            biased;
            ran = statements(self.client, script, self.limit, self.output) => ran,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("cancelled; a change that has begun goes on to its end, and SHOW JOBS shows what becomes of it");
                return;
            }
        };
        match ran {
            Ok(_) if self.tells_time => println!("{} ms", started.elapsed().as_millis()),
            Ok(_) => {}
            Err(error) => eprintln!("error: {}", exit::told(&error)),
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Column;

    #[test]
    fn commands_are_told_from_sql() {
        let run = |sql: &str| Some(Command::Run(sql.to_owned()));
        for (line, expected) in [
            ("\\?", Some(Command::Help)),
            ("help", Some(Command::Help)),
            (" quit; ", Some(Command::Quit)),
            ("\\q", Some(Command::Quit)),
            ("\\d", run("SHOW TABLES")),
            ("\\dj", run("SHOW JOBS")),
            ("\\d readings;", run("DESCRIBE readings")),
            ("\\d+ \"My table\"", run("DESCRIBE \"My table\"")),
            ("\\i a b.sql", Some(Command::File("a b.sql".into()))),
            ("\\i", Some(Command::Unknown("\\i".to_owned()))),
            ("\\copy t FROM x", Some(Command::Unknown("\\copy".to_owned()))),
            ("SELECT '\\d'", None),
            ("help me", None),
            ("", None),
        ] {
            assert_eq!(Command::read(line), expected, "{line}");
        }
    }

    #[test]
    fn names_are_completed_as_sql_writes_them() {
        let column = |name: &str| Column { name: name.to_owned() };
        let rows = Rows {
            columns: vec![column("table_schema"), column("table_name")],
            rows: ["readings", "Reads", "rows 2"].map(|name| vec![json!("public"), json!(name)]).into(),
            truncated: false,
            tag: String::new(),
            notices: vec![],
        };
        let mut names = of_column(&rows, "table_name");
        assert_eq!(names, ["readings", "\"Reads\"", "\"rows 2\""]);
        assert!(of_column(&rows, "view_name").is_empty());
        names.push("polybolos.jobs".to_owned());
        let names = Names(names);
        assert_eq!(names.complete("SELECT * FROM REA", 17), (14, vec!["readings".to_owned()]));
        assert_eq!(names.complete("SELECT * FROM \"r WHERE", 16), (14, vec!["\"Reads\"".to_owned(), "\"rows 2\"".to_owned()]));
        assert_eq!(names.complete("FROM polybolos.j", 16), (5, vec!["polybolos.jobs".to_owned()]));
        assert_eq!(names.complete("ä.name, r", 10), (9, vec!["readings".to_owned()]));
        assert_eq!(names.complete("SELECT ", 7), (7, vec![]));
    }

    #[test]
    fn only_what_makes_or_drops_changes_names() {
        assert!(changes_names("create table t (a INT)") && changes_names("STOP JOB j; DROP JOB j"));
        assert!(!changes_names("SELECT 1"));
    }
}
