//! `polybolos job verify`: begins a verification, shows how far it is, and tells what it found.
use std::{io::IsTerminal, time::Duration};

use polybolos_service::exit::{Exit, Failure};
use polybolos_tables::plain::counted;
use serde_json::{Value, json};

use crate::{
    client::{Client, Column, Rows, identifier, literal},
    output,
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

const BAR: usize = 30;

pub async fn run(client: &Client, job: &str, format: output::Format) -> anyhow::Result<()> {
    client.sql(&format!("VERIFY JOB {}", identifier(job)), 1).await?;
    let sql = format!(
        "SELECT state, records_read, records_total, rows, differences, complete, message FROM polybolos.verifications WHERE job = {}",
        literal(job)
    );
    let is_watched = std::io::stderr().is_terminal();
    let told = loop {
        let answer = client.sql(&sql, 1).await?;
        let Some(told) = answer.rows.into_iter().next() else {
            return Err(Exit::new(
                Failure::Failed,
                format!("the verification of job {job} is gone; another scheduler may lead now"),
            )
            .into());
        };
        if is_watched {
            eprint!("\r{}", bar(told[1].as_u64().unwrap_or(0), told[2].as_u64().unwrap_or(0)));
        }
        if told[0] != "running" {
            break told;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    if is_watched {
        eprintln!();
    }
    let message = told[6].as_str().unwrap_or_default();
    if told[0] == "failed" {
        return Err(Exit::new(Failure::Failed, message.to_owned()).into());
    }
    if !message.is_empty() {
        eprintln!("{message}");
    }
    let [read, rows, differences] = [1_usize, 3, 4].map(|column| told[column].as_u64().unwrap_or(0));
    let complete = if told[5] == true { "" } else { ", of an input that is no longer complete" };
    let (rows, read) = (counted(rows, "row"), counted(read, "record"));
    eprintln!("{rows} compared with {read}{complete}: {}", counted(differences, "difference"));
    if differences == 0 {
        if format.is_for_machines() {
            output::print(&equal(job, &told), format);
        }
        return Ok(());
    }
    let sql = format!(
        "SELECT table_name, difference, key, expected, found FROM polybolos.verification_differences WHERE job = {}",
        literal(job)
    );
    output::print(&client.sql(&sql, 10_000).await?, format);
    let rows = counted(differences, "row");
    Err(Exit::new(Failure::Reported, format!("the tables of job {job} differ in {rows} from what its records give")).into())
}

/// That nothing differs, for who reads no words: where something does, there is a row of each difference instead.
fn equal(job: &str, told: &[Value]) -> Rows {
    let columns = ["job", "equal", "rows", "records", "complete"].map(|name| Column { name: name.to_owned() });
    let row = vec![json!(job), json!(true), told[3].clone(), told[1].clone(), told[5].clone()];
    Rows { columns: columns.into(), rows: vec![row], truncated: false, tag: String::new(), notices: vec![] }
}

fn bar(read: u64, total: u64) -> String {
    let done = (read.min(total) * BAR as u64).checked_div(total).unwrap_or(0) as usize;
    format!("[{}{}] {read} of {}", "#".repeat(done), " ".repeat(BAR - done), counted(total, "record"))
}

#[cfg(test)]
mod tests {
    use super::{bar, equal};
    use serde_json::json;

    #[test]
    fn what_is_equal_is_a_row() {
        let told = [json!("done"), json!(7), json!(7), json!(3), json!(0), json!(true), json!("")];
        let rows = equal("j", &told);
        assert_eq!(
            rows.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(" "),
            "job equal rows records complete"
        );
        assert_eq!(rows.rows, [[json!("j"), json!(true), json!(3), json!(7), json!(true)]]);
    }

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0, 0), format!("[{}] 0 of 0 records", " ".repeat(30)));
        assert_eq!(bar(0, 1), format!("[{}] 0 of 1 record", " ".repeat(30)));
        assert_eq!(bar(5, 10), format!("[{}{}] 5 of 10 records", "#".repeat(15), " ".repeat(15)));
        assert_eq!(bar(10, 10), format!("[{}] 10 of 10 records", "#".repeat(30)));
    }
}
