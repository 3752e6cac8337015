//! `polybolos sql`: files, statements, or a prompt.
use std::{io::IsTerminal, path::PathBuf};

use anyhow::Context;
use polybolos_service::exit::{Exit, Failure};

use crate::{
    Connect,
    client::Client,
    output,
    prompt::{self, Command},
};

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
    /// Most rows of an answer, 10 000 at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    connect: Connect,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    let (limit, output) = (arguments.limit, arguments.output);
    for file in &arguments.files {
        let script = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        statements(&client, &script, limit, output).await.with_context(|| file.display().to_string())?;
    }
    for command in &arguments.command {
        let script = match Command::read(command) {
            Some(Command::Run(sql)) => sql,
            _ => command.clone(),
        };
        statements(&client, &script, limit, output).await?;
    }
    if !arguments.files.is_empty() || !arguments.command.is_empty() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let script = std::io::read_to_string(std::io::stdin())?;
        return statements(&client, &script, limit, output).await;
    }
    prompt::run(&client, limit, output).await
}

/// Each statement is sent on its own, so that each shows its answer; where it is in its script, so that errors tell places there.
pub async fn statements(client: &Client, script: &str, limit: usize, output: output::Format) -> anyhow::Result<()> {
    let parsed = polybolos_sql::parser::parse(script).map_err(|error| Exit::new(Failure::Failed, error.placed()))?;
    for statement in parsed {
        let (lines, columns) = (statement.at.line - 1, statement.at.column - 1);
        let sql = "\n".repeat(lines as usize) + &" ".repeat(columns as usize) + &statement.sql;
        output::print(&client.sql(&sql, limit).await?, output);
    }
    Ok(())
}
