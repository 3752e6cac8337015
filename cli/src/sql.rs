//! `polybolos sql`: a prompt with history, files, or one statement.
use std::{io::IsTerminal, path::PathBuf};

use anyhow::Context;
use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{Connect, client::Client, output};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files to run, in order.
    files: Vec<PathBuf>,
    /// Statements to run.
    #[arg(short, long, allow_hyphen_values = true)]
    command: Option<String>,
    /// How answers are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: output::Format,
    /// Most rows of an answer, 10 000 at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    connect: Connect,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    for file in &arguments.files {
        let script = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        statements(&client, &script, &arguments).await.with_context(|| file.display().to_string())?;
    }
    if let Some(command) = &arguments.command {
        statements(&client, command, &arguments).await?;
    }
    if !arguments.files.is_empty() || arguments.command.is_some() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let script = std::io::read_to_string(std::io::stdin())?;
        return statements(&client, &script, &arguments).await;
    }
    prompt(&client, &arguments).await
}

/// Each statement is sent on its own, so that each shows its answer; where it is in its script, so that errors tell places there.
async fn statements(client: &Client, script: &str, arguments: &Arguments) -> anyhow::Result<()> {
    for statement in polybolos_sql::parser::parse(script)? {
        let (lines, columns) = (statement.at.line - 1, statement.at.column - 1);
        let sql = "\n".repeat(lines as usize) + &" ".repeat(columns as usize) + &statement.sql;
        output::print(&client.sql(&sql, arguments.limit).await?, arguments.output);
    }
    Ok(())
}

async fn prompt(client: &Client, arguments: &Arguments) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new()?;
    let history = std::env::home_dir().map(|home| home.join(".polybolos_history"));
    if let Some(history) = &history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    println!(
        "Statements end with a semicolon; Ctrl-D leaves. SHOW JOBS, SHOW TABLES and SELECT * FROM polybolos.jobs are a start."
    );
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
        if pending.is_empty() && matches!(line.trim(), "exit" | "quit" | "\\q") {
            break;
        }
        pending.push_str(&line);
        pending.push('\n');
        if !polybolos_sql::parser::is_complete(&pending) {
            continue;
        }
        let script = std::mem::take(&mut pending);
        let _ = editor.add_history_entry(script.trim_end());
        let started = std::time::Instant::now();
        match statements(client, &script, arguments).await {
            Ok(()) => println!("{} ms", started.elapsed().as_millis()),
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
    if let Some(history) = &history {
        editor.save_history(history).with_context(|| format!("cannot write {}", history.display()))?;
    }
    Ok(())
}
