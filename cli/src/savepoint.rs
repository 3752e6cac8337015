//! `polybolos savepoint`: what is kept of jobs under names.
use std::path::PathBuf;

use clap::Subcommand;
use polybolos_tables::plain::counted;

use crate::{
    Connect,
    client::{Client, identifier},
    output,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// How answers are written.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: output::Format,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List all savepoints.
    List,
    /// Forget a savepoint; its files go when nothing else names them.
    Delete { name: String },
    /// Write a savepoint with its state into one file, for another cluster.
    Export { name: String, file: PathBuf },
    /// Take in what `export` wrote. The job begins with it by `job restart --from savepoint`, over topics with the same records at the same offsets.
    Import {
        file: PathBuf,
        /// Its name here; without it, the one it had.
        #[arg(long = "as")]
        name: Option<String>,
    },
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    let sql = match &arguments.what {
        What::Export { name, file } => {
            let bytes = client.download(&["api", "v1", "savepoints", name, "archive"], file).await?;
            eprintln!("savepoint {name} is in {}, {}", file.display(), counted(bytes, "byte"));
            return Ok(());
        }
        What::Import { file, name } => {
            let query: Vec<(&str, &str)> = name.iter().map(|name| ("as", name.as_str())).collect();
            let answer = client.upload(&["api", "v1", "savepoints"], &query, file).await?;
            eprintln!("savepoint {} is there", answer["savepoint"].as_str().unwrap_or_default());
            return Ok(());
        }
        What::List => "SELECT * FROM polybolos.savepoints ORDER BY job, created_at".to_owned(),
        What::Delete { name } => format!("DROP SAVEPOINT {}", identifier(name)),
    };
    output::print(&client.sql(&sql, 10_000).await?, arguments.output);
    Ok(())
}
