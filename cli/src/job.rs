//! `polybolos job`: streaming jobs.
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use polybolos_service::exit::{Exit, Failure};
use polybolos_sql::{limits::Limits, parser::parse_script, statement::StatementKind};

use crate::{
    Connect,
    client::{Client, identifier, literal},
    output, verify,
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
    /// List all jobs and what each does.
    List,
    /// Show one job: its state, what limits it, and through which offsets and event time each of its tables is complete.
    Show { name: String },
    /// Show what happened to a job and its last epochs, newest first, under earlier leaders too.
    Logs {
        name: String,
        /// Most events, and most epochs.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// What happened alone, without epochs. As JSON and CSV there is one or the other.
        #[arg(long)]
        events: bool,
    },
    /// Compute nothing more; what is recorded is published.
    Pause { name: String },
    /// Go on after pause, stop or a failure.
    Resume { name: String },
    /// Begin anew: a new incarnation of the job, from where it is told.
    #[command(group(clap::ArgGroup::new("earlier_rows").required(true).args(["keep", "replace"])))]
    Restart {
        name: String,
        /// `earliest`, `latest`, a time such as 2026-01-01T00:00:00Z, or `savepoint NAME`; without it, where the job began when it was created.
        #[arg(long, num_args = 1..=2)]
        from: Vec<String>,
        /// Rows that the earlier run wrote stay; the new run writes over those of the same key.
        #[arg(long)]
        keep: bool,
        /// Rows that the earlier run wrote, and the new one does not write again, are deleted once it has caught up.
        #[arg(long)]
        replace: bool,
        /// Skip what is recorded and not yet published, instead of waiting for it.
        #[arg(long)]
        discard: bool,
    },
    /// Go on with another definition: what the job has read and keeps stays, where the definition allows it.
    Upgrade {
        name: String,
        /// Has the job's CREATE JOB, as it shall be; other statements in it are left alone.
        file: PathBuf,
    },
    /// Keep what is recorded of the job under a name, to begin with it again.
    Savepoint {
        name: String,
        /// The savepoint's name; without it, the job's with the time.
        #[arg(long = "as")]
        savepoint: Option<String>,
    },
    /// Compute the job's answer again, over all that it has read and that is still in its topics, and compare its tables with that. The job computes
    /// nothing while its tables are read, and other statements about it are refused then.
    Verify { name: String },
    /// End the job when everything recorded is published.
    Stop { name: String },
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::connect(&arguments.connect)?;
    let control = |verb: &str, name: &str| format!("{verb} JOB {}", identifier(name));
    let sql = match &arguments.what {
        What::List => "SHOW JOBS".into(),
        What::Show { name } => format!("SELECT * FROM polybolos.jobs WHERE name = {}", literal(name)),
        What::Logs { name, lines, events: true } => events_of(name, *lines),
        What::Logs { name, lines, events: false } => {
            format!("SELECT * FROM polybolos.epochs WHERE job = {} ORDER BY epoch DESC LIMIT {lines}", literal(name))
        }
        What::Pause { name } => control("PAUSE", name),
        What::Resume { name } => control("RESUME", name),
        What::Stop { name } => control("STOP", name),
        What::Restart { name, from, keep: _, replace, discard } => {
            let from: Vec<&str> = from.iter().map(String::as_str).collect();
            let from = match from.as_slice() {
                [] => String::new(),
                [word @ ("earliest" | "latest")] => format!(" FROM {word}"),
                ["savepoint", savepoint] => format!(" FROM SAVEPOINT {}", identifier(savepoint)),
                [time] if *time != "savepoint" => format!(" FROM TIMESTAMP {}", literal(time)),
                _ => return Err(Exit::new(Failure::Usage, "write --from earliest, latest, a time, or savepoint NAME").into()),
            };
            let rows = if *replace { " REPLACE" } else { " KEEP" };
            format!("{}{from}{rows}{}", control("RESTART", name), if *discard { " DISCARD" } else { "" })
        }
        What::Upgrade { name, file } => upgrade(name, file)?,
        What::Verify { name } => return verify::run(&client, name, arguments.output).await,
        What::Savepoint { name, savepoint } => {
            let savepoint = savepoint.clone().unwrap_or_else(|| format!("{name}-{}", seconds_since_1970()));
            format!("CREATE SAVEPOINT {} FOR JOB {}", identifier(&savepoint), identifier(name))
        }
    };
    let rows = client.sql(&sql, 10_000).await?;
    if let (What::Show { name }, true) = (&arguments.what, rows.rows.is_empty()) {
        return Err(no_such_job(name, &rows.notices));
    }
    if let (What::Logs { name, .. }, true) = (&arguments.what, rows.rows.is_empty()) {
        must_exist(&client, name).await?;
    }
    if let (What::Logs { name, lines, events: false }, output::Format::Table | output::Format::Records) =
        (&arguments.what, arguments.output)
    {
        output::print(&client.sql(&events_of(name, *lines), 10_000).await?, arguments.output);
    }
    output::print(&rows, arguments.output);
    if let (What::Show { name }, output::Format::Table | output::Format::Records) = (&arguments.what, arguments.output) {
        let sql = format!(
            "SELECT table_name, complete_through_offsets, complete_through_time, watermark FROM polybolos.completeness WHERE job = {}",
            literal(name)
        );
        output::print(&client.sql(&sql, 10_000).await?, arguments.output);
    }
    let failed = rows
        .columns
        .iter()
        .position(|column| column.name == "state")
        .is_some_and(|index| matches!(arguments.what, What::Show { .. }) && rows.rows.iter().any(|row| row[index] == "failed"));
    if failed {
        return Err(Exit::new(Failure::Reported, "the job has failed; the column error says why").into());
    }
    Ok(())
}

/// The query for what happened to a job.
fn events_of(job: &str, lines: usize) -> String {
    format!(
        "SELECT happened_at, event, message, epoch, generation FROM polybolos.job_events WHERE job = {} ORDER BY generation DESC, happened_at DESC LIMIT {lines}",
        literal(job)
    )
}

/// An error when there is no job of this name.
pub async fn must_exist(client: &Client, name: &str) -> anyhow::Result<()> {
    let found = client.sql(&format!("SELECT name FROM polybolos.jobs WHERE name = {}", literal(name)), 1).await?;
    if found.rows.is_empty() {
        return Err(no_such_job(name, &found.notices));
    }
    Ok(())
}

/// `notices` came instead of the job: a scheduler that stands by shows none.
fn no_such_job(name: &str, notices: &[String]) -> anyhow::Error {
    let message = match notices {
        [] => format!("job {name} does not exist; `polybolos job list` shows all"),
        notices => format!("job {name} is not shown here: {}", notices.join("; ")),
    };
    Exit::new(Failure::Failed, message).into()
}

/// The statement that gives a job the definition that stands in a file.
fn upgrade(name: &str, file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    for statement in parse_script(&text, Limits::default()) {
        let statement = statement.with_context(|| format!("{}", file.display()))?;
        if let StatementKind::CreateJob(create) = &statement.kind
            && create.name == name
        {
            return Ok(format!("UPGRADE{}", &statement.sql["CREATE".len()..]));
        }
    }
    let message = format!("{} has no CREATE JOB {name}; write the job there as it shall be", file.display());
    Err(Exit::new(Failure::Usage, message).into())
}

fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
