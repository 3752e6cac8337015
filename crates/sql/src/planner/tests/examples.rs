//! Whole folders and pages of statements: Nexmark's queries, and the examples of the reference.
use std::path::Path;

use super::*;
use crate::validate::{read_folder, validate};

#[tokio::test]
async fn every_nexmark_query_plans() {
    let files = read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/nexmark")).unwrap();
    let validation = validate(&files).await;
    let problems: Vec<String> = validation.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let planner = planner(validation.catalog.clone());
    let mut found = Vec::new();
    for number in 0..=22 {
        let job = planner.plan_stored_job(validation.catalog.job(&format!("nexmark_q{number}")).unwrap(), 4).await.unwrap();
        if std::env::var_os("SHOW_PLANS").is_some() {
            println!("q{number}\n{}", job.inserts[0].plan.display_indent());
        }
        found.push((number, job.is_stateful, job.event_time.granule_us));
    }
    let stateless = [0, 1, 2, 10, 14, 21, 22];
    let windowed = |number| match number {
        5 => Some(2_000_000),
        7 | 8 => Some(10_000_000),
        11 => Some(0),
        _ => None,
    };
    for (number, is_stateful, granule_us) in found {
        assert_eq!(is_stateful, !stateless.contains(&number), "q{number}");
        assert_eq!(granule_us, windowed(number), "q{number}");
    }
}

#[tokio::test]
async fn a_kind_of_record_reads_its_own_fields() {
    let files = read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/nexmark")).unwrap();
    let validation = validate(&files).await;
    let planner = planner(validation.catalog.clone());
    let job = planner.plan_stored_job(validation.catalog.job("nexmark_q0").unwrap(), 4).await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("TableScan: public.nexmark projection=[event_type, bid]"), "{shown}");
    assert!(!shown.contains("CASE"), "{shown}");
    // Windows ask whether there is a time.
    let job = planner.plan_stored_job(validation.catalog.job("nexmark_q7").unwrap(), 4).await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    let filters: Vec<&str> = shown.lines().map(str::trim).filter(|line| line.starts_with("Filter:")).collect();
    assert!(filters.iter().any(|filter| filter.contains("IS NOT NULL")), "{shown}");
    assert!(filters.iter().all(|filter| !filter.contains("CASE")), "{shown}");
}

#[tokio::test]
async fn the_reference_is_planned() {
    for page in ["sql.md", "kafka.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page)).unwrap();
        let examples: Vec<&str> = text.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let file = crate::validate::SourceFile { name: page.to_owned(), text: examples.join("\n") };
        let problems: Vec<String> = validate(&[file]).await.problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}
