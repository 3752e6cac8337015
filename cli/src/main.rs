//! The `polybolos` binary: a verb for everything. Verbs parse arguments and call libraries; what they do is elsewhere.
#![forbid(unsafe_code)]

mod client;
mod cluster;
mod data_folder;
mod dlq;
mod ending;
mod flight_sql;
mod job;
mod live_status;
mod output;
mod pipelines;
mod prompt;
mod savepoint;
mod serve;
mod services;
mod sql;
mod test;
mod topic;
mod up;
mod validate;
mod verify;

use std::{path::PathBuf, process::ExitCode, sync::LazyLock};

use clap::{CommandFactory, Parser, Subcommand};
use polybolos_proto::build::BUILD;
use polybolos_service::exit::{self, Exit, Failure};

/// Also of the C libraries that are linked in, librdkafka above all. See docs/reference/benchmarks.md for what it brings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// With the protocol: executors and schedulers that do not fit each other are told apart by it.
static VERSION: LazyLock<String> = LazyLock::new(|| BUILD.to_string());

#[derive(Debug, Parser)]
#[command(name = "polybolos", version = VERSION.as_str(), about = "Streaming SQL on Apache DataFusion Ballista, exactly once into Cassandra")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the whole platform in this process: broker, scheduler, executor, tables, demo pipelines.
    Up(up::Arguments),
    /// Run a scheduler of a cluster.
    Scheduler(serve::Arguments),
    /// Run an executor of a cluster.
    Executor(serve::Arguments),
    /// Run the feeds of a cluster's pipelines.
    Ingest(serve::Arguments),
    /// Run a cluster of processes on this machine, against a running Kafka and Cassandra.
    Cluster(cluster::Arguments),
    /// Run SQL: a prompt, files, or a statement with -c.
    Sql(sql::Arguments),
    /// Look at streaming jobs, and control them.
    Job(job::Arguments),
    /// List, delete, export and import savepoints of jobs.
    Savepoint(savepoint::Arguments),
    /// Look at Kafka topics, read and write records.
    Topic(topic::Arguments),
    /// Look at dead letters, records that could not be processed, and send them back.
    Dlq(dlq::Arguments),
    /// Check pipeline folders without running them.
    Validate(validate::Arguments),
    /// Run the golden tests of pipeline folders: input in, expected rows out.
    Test(test::Arguments),
    /// Print shell completions.
    Completions { shell: clap_complete::Shell },
    /// Print the version.
    Version,
}

/// How to reach a running platform.
#[derive(Clone, Debug, clap::Args)]
pub struct Connect {
    /// The data folder of a platform on this machine; its endpoints and token are read from there.
    #[arg(long, env = "POLYBOLOS_DATA_DIR", default_value = ".polybolos", global = true)]
    data_dir: PathBuf,
    /// The platform's HTTP address, host:port, instead of the data folder's.
    #[arg(long, env = "POLYBOLOS_HTTP", global = true)]
    http: Option<String>,
    /// The token, instead of the data folder's.
    #[arg(long, env = "POLYBOLOS_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// Speak HTTPS with the platform, and trust this certificate authority (PEM).
    #[arg(long, env = "POLYBOLOS_CA_FILE", global = true)]
    ca_file: Option<PathBuf>,
}

/// As the shell says it of a process that SIGPIPE ended.
const PIPE_CLOSED: i32 = 128 + 13;

/// Whoever reads our output may have seen enough (`| head`), which ends us without a word: `println!` panics then.
fn end_with_the_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(PIPE_CLOSED);
        }
        report(panic);
    }));
}

/// Statements are planned on the runtime's threads, and nested ones go deep; only what is touched takes memory.
const STACK_BYTES: usize = 32 << 20;

fn main() -> ExitCode {
    end_with_the_pipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Failure::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    // Two libraries bring a TLS provider each; one is chosen for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().thread_stack_size(STACK_BYTES).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return Failure::Failed.into();
        }
    };
    let outcome = runtime.block_on(run(cli.verb));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", exit::told(&error));
            error.downcast_ref::<Exit>().map_or(Failure::Failed, |exit| exit.failure).into()
        }
    }
}

async fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Up(arguments) => up::run(arguments).await,
        Verb::Scheduler(arguments) => serve::scheduler(arguments).await,
        Verb::Executor(arguments) => serve::executor(arguments).await,
        Verb::Ingest(arguments) => serve::ingest(arguments).await,
        Verb::Cluster(arguments) => cluster::run(arguments).await,
        Verb::Sql(arguments) => sql::run(arguments).await,
        Verb::Job(arguments) => job::run(arguments).await,
        Verb::Savepoint(arguments) => savepoint::run(arguments).await,
        Verb::Topic(arguments) => topic::run(arguments).await,
        Verb::Dlq(arguments) => dlq::run(arguments).await,
        Verb::Validate(arguments) => validate::run(arguments).await,
        Verb::Test(arguments) => test::run(arguments).await,
        Verb::Completions { shell } => {
            // It panics in its own way when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "polybolos", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(())
        }
        Verb::Version => {
            println!("polybolos {BUILD}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_fit_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_becomes_of_earlier_rows_is_asked_for_by_both_names() {
        let restart = |flags: &[&str]| Cli::try_parse_from([&["polybolos", "job", "restart", "j"][..], flags].concat());
        assert!(restart(&["--keep"]).is_ok() && restart(&["--replace"]).is_ok());
        for flags in [&[][..], &["--keep", "--replace"]] {
            let refused = restart(flags).expect_err("one of them").to_string();
            assert!(refused.contains("--keep") && refused.contains("--replace"), "{refused}");
        }
    }

    #[test]
    fn the_version_names_the_protocol() {
        let told = Cli::command().render_version();
        assert_eq!(told.trim_end(), format!("polybolos {} (protocol {})", BUILD.version, BUILD.protocol));
    }
}
