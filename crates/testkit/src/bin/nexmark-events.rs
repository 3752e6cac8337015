//! `polybolos-nexmark-events`: Nexmark's events on standard output, the records that `make bench-nexmark` has in its topic, for tests and for people.
#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, Write, stdout};

use clap::{Parser, builder::RangedU64ValueParser};
use polybolos_testkit::nexmark::records_at;

/// Writes Nexmark's events as JSON, one a line; the same in every run.
#[derive(Parser)]
#[command(name = "polybolos-nexmark-events", version)]
struct Arguments {
    /// How many
    events: usize,
    /// Events in a second of event time
    #[arg(default_value_t = 10_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    per_second: usize,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    match write(&arguments) {
        // As with `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn write(arguments: &Arguments) -> io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    for record in records_at(arguments.events, arguments.per_second) {
        writeln!(out, "{record}")?;
    }
    out.flush()
}
