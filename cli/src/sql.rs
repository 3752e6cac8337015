//! `polybolos sql`: files, statements, or a prompt.
use std::{io::IsTerminal, path::PathBuf, pin::pin};

use anyhow::Context;
use polybolos_service::exit::{Exit, Failure};
use polybolos_sql::statement::{Statement, StatementKind};

use crate::{
    Connect,
    client::Client,
    flight_sql::FlightSql,
    output,
    prompt::{self, Command},
};

/// Of an answer for people.
const ROWS: usize = 1_000;

/// The HTTP door gives no more.
const MOST_ROWS: usize = 10_000;

/// As the shell says it of a process that SIGINT ended.
const INTERRUPTED: i32 = 128 + 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files to run, in order.
    files: Vec<PathBuf>,
    /// Statements to run, or a command of the prompt, such as \d. May be given more than once.
    #[arg(short, long, allow_hyphen_values = true)]
    command: Vec<String>,
    /// How answers are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: output::Format,
    /// Most rows of an answer, 10 000 at most; without it, 1 000 for people, and all of a query as json or csv.
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    connect: Connect,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    let (limit, output) = (arguments.limit, arguments.output);
    for file in &arguments.files {
        let script = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        if !script_of(&client, &script, limit, output).await.with_context(|| file.display().to_string())? {
            return Ok(());
        }
    }
    for command in &arguments.command {
        let script = match Command::read(command) {
            Some(Command::Run(sql)) => sql,
            _ => command.clone(),
        };
        if !script_of(&client, &script, limit, output).await? {
            return Ok(());
        }
    }
    if !arguments.files.is_empty() || !arguments.command.is_empty() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let script = std::io::read_to_string(std::io::stdin())?;
        return script_of(&client, &script, limit, output).await.map(drop);
    }
    prompt::run(&client, limit, output).await
}

/// The statements of a process that runs no others. Once Ctrl-C has ended rows without an end, it ends no process by itself any more.
async fn script_of(client: &Client, script: &str, limit: Option<usize>, output: output::Format) -> anyhow::Result<bool> {
    let ran = statements(client, script, limit, output);
    if !polybolos_sql::parser::parse(script).is_ok_and(|statements| statements.iter().any(is_endless)) {
        return ran.await;
    }
    tokio::select! {
        biased;
        ran = ran => ran,
        _ = tokio::signal::ctrl_c() => std::process::exit(INTERRUPTED),
    }
}

fn is_endless(statement: &Statement) -> bool {
    matches!(&statement.kind, StatementKind::Query(query) if query.emit_changes)
}

/// `limit`: most rows of each answer. Without one, nothing is left out of what machines read.
/// Each statement is sent on its own, so that each shows its answer; where it is in its script, so that errors tell places there.
/// Answers whether all were run: Ctrl-C ends rows that have no end of their own, and is no failure then.
pub async fn statements(client: &Client, script: &str, limit: Option<usize>, output: output::Format) -> anyhow::Result<bool> {
    let parsed = polybolos_sql::parser::parse(script).map_err(|error| Exit::new(Failure::Failed, error.placed()))?;
    for statement in parsed {
        let (lines, columns) = (statement.at.line - 1, statement.at.column - 1);
        let sql = "\n".repeat(lines as usize) + &" ".repeat(columns as usize) + &statement.sql;
        if is_endless(&statement) {
            if !follow(client, &sql, limit, output).await? {
                return Ok(false);
            }
            continue;
        }
        let wants_all = limit.is_none() && output.is_for_machines();
        if wants_all
            && let StatementKind::Query(_) = statement.kind
            && let Some(door) = client.flight_sql().await?
        {
            print_all(door, &sql, output).await?;
            continue;
        }
        let mut rows = client.sql(&sql, limit.unwrap_or(if wants_all { MOST_ROWS } else { ROWS })).await?;
        let lacks_some = wants_all && std::mem::take(&mut rows.truncated);
        output::print(&rows, output);
        if lacks_some {
            let message = format!(
                "the last answer has more than the {} rows that were printed, which is all that the HTTP door gives; leave out --http and give the --data-dir of a platform on this machine, or a --limit",
                rows.rows.len()
            );
            return Err(Exit::new(Failure::Failed, message).into());
        }
    }
    Ok(true)
}

/// Rows as they come, until there are as many as are asked for, or Ctrl-C; answers whether it was not that.
async fn follow(client: &Client, sql: &str, limit: Option<usize>, output: output::Format) -> anyhow::Result<bool> {
    let Some(door) = client.flight_sql().await? else {
        let message = "rows of EMIT CHANGES come by the Flight SQL door, which --http does not tell of; leave out --http and give the --data-dir of a platform on this machine, or use a client for Flight SQL";
        return Err(Exit::new(Failure::Failed, message).into());
    };
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut answer = tokio::select! {
        biased;
        _ = &mut interrupted => return Ok(false),
        answer = door.query(sql) => answer?,
    };
    let columns = std::mem::take(&mut answer.columns);
    let mut shown = output::Following::begin(&columns, output);
    let mut left = limit.unwrap_or(usize::MAX);
    let mut is_interrupted = false;
    while left > 0 {
        let next = tokio::select! {
            biased;
            _ = &mut interrupted => {
                is_interrupted = true;
                break;
            }
            next = answer.next() => next?,
        };
        let Some(mut rows) = next else { break };
        rows.truncate(left);
        left -= rows.len();
        shown.print(&rows);
    }
    shown.end();
    output::print_notices(&answer.notices());
    Ok(!is_interrupted)
}

/// Rows as they come: there may be more than memory has room for.
async fn print_all(door: &FlightSql, sql: &str, output: output::Format) -> anyhow::Result<()> {
    let mut answer = door.query(sql).await?;
    // A query may fail only now, and then has no head either.
    let mut next = answer.next().await?;
    output::print_head(&answer.columns, output);
    while let Some(rows) = next {
        output::print_body(&answer.columns, &rows, output);
        next = answer.next().await?;
    }
    output::print_notices(&answer.notices());
    Ok(())
}
