//! `polybolos-local-servers`: a real Kafka and a real Cassandra on this machine without Docker, for people, for `make cluster`
//! and for test runs. `deploy/local/README.md` says how to use it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use polybolos_testkit::{
    CASSANDRA_VARIABLE, Cancel, CassandraOptions, KAFKA_VARIABLE, KafkaOptions, LocalServer, Order, ProcessSpec, Servers,
};
use polybolos_testkit::{Process, orphans};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often servers and the command are looked after.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How long the command may take to end after a signal, and then what it left behind.
const COMMAND_GRACE: Duration = Duration::from_secs(30);
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
/// The exit code of what failed here; a command's own is passed on.
const FAILED: u8 = 1;
/// What a shell reports for a command that a signal ended is this plus the signal's number.
const SIGNAL_EXIT_BASE: i32 = 128;

/// Runs a real Apache Kafka and a real Apache Cassandra on loopback, without Docker.
///
/// Prints one line `ready kafka=HOST:PORT cassandra=HOST:PORT`. Then it runs until Ctrl-C; or, with a COMMAND, runs that with
/// POLYBOLOS_TEST_KAFKA and POLYBOLOS_TEST_CASSANDRA set, and exits with its exit code. Needs Java 17 and Maven
/// (apt-get install openjdk-17-jre-headless maven); the first start downloads about 100 MB of jars.
#[derive(Parser)]
#[command(name = "polybolos-local-servers", version)]
struct Arguments {
    /// Keep the data here, and use them again next time (default: a temporary folder)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Kafka's port (default: the last one used on this folder, or a free one)
    #[arg(long, value_name = "N")]
    kafka_port: Option<u16>,
    /// Cassandra's CQL port (default: as for Kafka)
    #[arg(long, value_name = "N")]
    cassandra_port: Option<u16>,
    /// Partitions of topics that are created without saying how many
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    /// Kafka's heap limit in MB
    #[arg(long, value_name = "MB", default_value_t = 512)]
    kafka_heap: u32,
    /// Cassandra's heap in MB
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    cassandra_heap: u32,
    /// One more line for Kafka's server.properties; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    kafka_property: Vec<(String, String)>,
    /// A second port of Kafka, where this user logs in (SASL/PLAIN)
    #[arg(long, value_name = "USER:PASSWORD", value_parser = user_password)]
    kafka_login: Option<(String, String)>,
    /// One more line for cassandra.yaml, instead of ours with that key; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    cassandra_setting: Vec<(String, String)>,
    /// Start only one of them
    #[arg(long)]
    only: Option<Only>,
    /// Take orders from standard input, one a line: start, stop, kill, pause or resume, then kafka or cassandra. Each is answered by a
    /// line `done …` or `failed …`; the end of the input ends everything
    #[arg(long, conflicts_with = "command")]
    control: bool,
    /// Run this while the servers are up, then stop them
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Only {
    Kafka,
    Cassandra,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn user_password(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').ok_or("write it as USER:PASSWORD")?;
    Ok((user.to_owned(), password.to_owned()))
}

/// The servers that were asked for.
#[derive(Default)]
struct Running {
    kafka: Option<LocalServer>,
    cassandra: Option<LocalServer>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("polybolos-local-servers: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    orphans::adopt().context("cannot become the parent of orphaned processes (Linux is needed)")?;
    let mut signals = Signals::listen()?;
    let command = arguments.command.clone();
    let control = arguments.control;
    let cancel = Cancel::default();
    let mut starting = tokio::task::spawn_blocking({
        let cancel = cancel.clone();
        move || start(&arguments, &cancel)
    });
    let running = tokio::select! {
        started = &mut starting => started?,
        exit = signals.next() => {
            cancel.cancel();
            // Its error says only that it was cancelled.
            let _ = starting.await?;
            return Ok(exit);
        }
    };
    let running = running?;
    let code = match announce(&running) {
        Err(error) => Err(error),
        Ok(()) if control => obey_orders(&running, &mut signals).await,
        Ok(()) if command.is_empty() => watch_servers(&running, &mut signals).await,
        Ok(()) => run_command(&command, &running, &mut signals).await,
    };
    tokio::task::spawn_blocking(move || stop(running)).await?;
    code
}

/// Starts what was asked for, both at the same time.
fn start(arguments: &Arguments, cancel: &Cancel) -> Result<Running> {
    let kafka = KafkaOptions {
        data_dir: arguments.data_dir.clone(),
        port: arguments.kafka_port,
        partitions: arguments.partitions,
        heap_mb: arguments.kafka_heap,
        sasl: arguments.kafka_login.clone(),
        properties: arguments.kafka_property.clone(),
        cancel: cancel.clone(),
        ..KafkaOptions::default()
    };
    let cassandra = CassandraOptions {
        data_dir: arguments.data_dir.clone(),
        port: arguments.cassandra_port,
        heap_mb: arguments.cassandra_heap,
        settings: arguments.cassandra_setting.clone(),
        cancel: cancel.clone(),
        ..CassandraOptions::default()
    };
    Ok(match arguments.only {
        Some(Only::Kafka) => Running { kafka: Some(kafka.start()?), cassandra: None },
        Some(Only::Cassandra) => Running { kafka: None, cassandra: Some(cassandra.start()?) },
        None => {
            let (kafka, cassandra) = Servers::start(&kafka, &cassandra)?;
            Running { kafka: Some(kafka), cassandra: Some(cassandra) }
        }
    })
}

/// The one line on standard output that scripts wait for.
fn announce(running: &Running) -> Result<()> {
    let mut line = "ready".to_owned();
    for (name, server) in running.named() {
        line.push_str(&format!(" {name}={}", server.address()));
    }
    if let Some(address) = running.kafka.as_ref().and_then(LocalServer::sasl_address) {
        line.push_str(&format!(" kafka-login={address}"));
    }
    say(&line)
}

/// Until a signal comes, or a server dies.
async fn watch_servers(running: &Running, signals: &mut Signals) -> Result<ExitCode> {
    loop {
        tokio::select! {
            exit = signals.next() => return Ok(exit),
            () = tokio::time::sleep(WATCH_INTERVAL) => running.check()?,
        }
    }
}

/// Until a signal comes, the input ends, or a server dies without an order.
async fn obey_orders(running: &Running, signals: &mut Signals) -> Result<ExitCode> {
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    // A thread of its own: it may still wait for input when everything else has ended.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            exit = signals.next() => return Ok(exit),
            line = lines.recv() => match line {
                Some(line) => {
                    let answer = tokio::task::block_in_place(|| running.obey(&line));
                    say(&answer.map_or_else(|error| format!("failed {line}: {error}"), |order| format!("done {order}")))?;
                }
                None => return Ok(ExitCode::SUCCESS),
            },
            () = tokio::time::sleep(WATCH_INTERVAL) => running.check()?,
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to standard output")
}

async fn run_command(command: &[OsString], running: &Running, signals: &mut Signals) -> Result<ExitCode> {
    let mut spec = ProcessSpec::new(command[0].to_string_lossy(), &command[0]).args(&command[1..]);
    let variables = [(KAFKA_VARIABLE, &running.kafka), (CASSANDRA_VARIABLE, &running.cassandra)];
    for (variable, server) in variables {
        spec = match server {
            Some(server) => spec.env(variable, server.address()),
            // One of a launcher around this one is not ours to hand on.
            None => spec.env_remove(variable),
        };
    }
    let mut process = spec.spawn_in_foreground()?;
    let status = loop {
        if let Some(status) = process.exit_status()? {
            break status;
        }
        tokio::select! {
            _ = signals.next() => break end_command(&mut process).await?,
            () = tokio::time::sleep(WATCH_INTERVAL) => running.check()?,
        }
    };
    Ok(exit_code(status))
}

/// Lets the command end by itself. Ctrl-C has reached it too (same process group); SIGTERM came to us alone.
async fn end_command(process: &mut Process) -> Result<ExitStatus> {
    if process.is_running() {
        process.signal(rustix::process::Signal::TERM)?;
    }
    Ok(tokio::task::block_in_place(|| process.terminate(COMMAND_GRACE))?)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNAL_EXIT_BASE + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
}

/// Stops the servers, and then whatever the command left behind.
fn stop(running: Running) {
    std::thread::scope(|scope| {
        scope.spawn(|| drop(running.kafka));
        drop(running.cassandra);
    });
    for orphan in orphans::end_all(ORPHAN_GRACE) {
        tracing::warn!(pid = %orphan.pid, command = orphan.command, "the command left a process behind: ended");
    }
}

impl Running {
    fn named(&self) -> impl Iterator<Item = (&'static str, &LocalServer)> {
        let servers = [("kafka", &self.kafka), ("cassandra", &self.cassandra)];
        servers.into_iter().filter_map(|(name, server)| Some((name, server.as_ref()?)))
    }

    fn obey(&self, line: &str) -> Result<Order, String> {
        let order: Order = line.parse()?;
        let (_, server) = self.named().find(|(name, _)| *name == order.server).ok_or("that server was not started")?;
        order.carry_out(server).map_err(|error| error.to_string())?;
        Ok(order)
    }

    /// Fails when a server has ended by itself.
    fn check(&self) -> Result<()> {
        for (name, server) in self.named() {
            if server.has_ended_by_itself() {
                anyhow::bail!("{name} has ended by itself; see {}, and start again", server.log().display());
            }
        }
        Ok(())
    }
}

/// The two ways in which people and supervisors end us.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for either. To be asked to end is not a failure: the exit code is 0.
    async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::SUCCESS,
            _ = self.terminate.recv() => ExitCode::SUCCESS,
        }
    }
}
