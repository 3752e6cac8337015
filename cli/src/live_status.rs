//! What flows, of `polybolos up` on a terminal: a line that is drawn anew each second. It stands below the cursor, which waits at the beginning of an empty line, so that
//! a line of the log begins there, and does not go on behind what flows.
use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use polybolos_gateway::status::JobStatus;
use polybolos_scheduler::Engine;
use polybolos_tables::plain::counted;
use tokio_util::sync::CancellationToken;

use crate::output::cut;

/// From the cursor's line on.
const CLEAR: &str = "\r\x1b[J";
const LINE_UP: &str = "\r\x1b[A";

/// Until `stop`; then nothing of it stays. Without a terminal it shows nothing.
pub async fn show(engine: Arc<dyn Engine>, stop: CancellationToken) {
    if !io::stderr().is_terminal() || !io::stdout().is_terminal() {
        return;
    }
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        let asked = async {
            seconds.tick().await;
            engine.status().await
        };
        let status = tokio::select! {
            () = stop.cancelled() => break,
            status = asked => status,
        };
        // One that is full would take a second line.
        let columns = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns).saturating_sub(1));
        write(&format!("{CLEAR}\n{}{LINE_UP}", line(&status.jobs, columns)));
    }
    write(CLEAR);
}

/// A terminal that is gone misses nothing.
fn write(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(jobs: &[JobStatus], columns: usize) -> String {
    let told: Vec<String> = jobs
        .iter()
        .map(|job| {
            let behind = job.lag_records.map_or_else(|| "?".to_owned(), |records| records.to_string());
            let rows = counted(job.rows_out, "row");
            format!("{} {:?}: {rows}, {:.0}/s, {behind} behind, {} dead", job.name, job.state, job.rows_per_s, job.dead_letters)
        })
        .collect();
    cut(&told.join("  ·  "), columns)
}

#[cfg(test)]
mod tests {
    use polybolos_gateway::status::JobState;

    use super::*;

    #[test]
    fn what_flows_is_one_line_of_the_terminal() {
        let job = |name: &str, lag_records| JobStatus {
            name: name.to_owned(),
            state: JobState::Running,
            rows_out: 1,
            rows_per_s: 2.4,
            lag_records,
            ..JobStatus::default()
        };
        let jobs = [job("a_job", Some(3)), job("東京", None)];
        let whole = "a_job Running: 1 row, 2/s, 3 behind, 0 dead  ·  東京 Running: 1 row, 2/s, ? behind, 0 dead";
        assert_eq!(line(&jobs, 200), whole);
        assert_eq!(line(&jobs, 20), "a_job Running: 1 ro…");
        assert_eq!(line(&jobs, 51), "a_job Running: 1 row, 2/s, 3 behind, 0 dead  ·  東…");
        assert_eq!(line(&[], 20), "");
    }
}
