//! `polybolos dlq`: dead letters.
use clap::Subcommand;
use polybolos_service::exit::{Exit, Failure};

use crate::{
    Connect,
    client::{Client, identifier, literal},
    job, output,
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
    /// List dead letters, of all jobs or of one.
    List {
        /// Only those of this job.
        #[arg(long)]
        job: Option<String>,
        /// Most dead letters.
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
    /// Show one dead letter with its raw bytes.
    Show { id: String },
    /// Send records back to their topics, each once, with a header that says so.
    Replay {
        /// Only this one.
        id: Option<String>,
        /// Only those of this job; without a job and an id, all.
        #[arg(long, conflicts_with = "id")]
        job: Option<String>,
    },
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    let sql = match &arguments.what {
        What::List { job, lines } => {
            let filter = job.as_ref().map(|job| format!("WHERE job = {}", literal(job))).unwrap_or_default();
            format!("SELECT id, job, step, error, raw_bytes FROM polybolos.dead_letters {filter} ORDER BY id LIMIT {}", lines + 1)
        }
        What::Replay { id: Some(id), .. } => format!("REPLAY DEAD LETTERS {}", literal(id)),
        What::Replay { job: Some(job), .. } => format!("REPLAY DEAD LETTERS FOR JOB {}", identifier(job)),
        What::Replay { .. } => "REPLAY DEAD LETTERS".to_owned(),
        What::Show { id } => format!("SELECT * FROM polybolos.dead_letters WHERE id = {}", literal(id)),
    };
    let mut rows = client.sql(&sql, 10_000).await?;
    if let (What::Show { id }, true) = (&arguments.what, rows.rows.is_empty()) {
        let message = format!("dead letter {id} does not exist; `polybolos dlq list` shows all");
        return Err(Exit::new(Failure::Failed, message).into());
    }
    // Those of a job that was dropped stay.
    if let (What::List { job: Some(name), .. }, true) = (&arguments.what, rows.rows.is_empty()) {
        job::must_exist(&client, name).await?;
    }
    let more = matches!(&arguments.what, What::List { lines, .. } if rows.rows.len() > *lines);
    if more {
        rows.rows.pop();
    }
    output::print(&rows, arguments.output);
    if more {
        eprintln!("there are more; -n shows more of them, --job those of one job");
    }
    Ok(())
}
