//! Another definition for a job that goes on from where it is (EPOCHS rule 18): allowed when every operator with state is the same, and reads the same. What cannot be
//! is said before the job is touched.
use std::sync::Arc;

use anyhow::{anyhow, bail};
use polybolos_dataflow::graph::kept::{Kept, first_difference};
use polybolos_operators::{
    epoch::{exec::SHOWN_OPERATOR, flow::Flow},
    template::JobTemplate,
};
use polybolos_sql::catalog::{Catalog, JobDefinition};
use polybolos_tables::plain::up_to;

use super::{
    chronicle::{EventKind, JobEvent},
    manager::JobManager,
    planning, restart,
    spec::JobSpec,
};

impl JobManager {
    /// Everything that can be refused of an upgrade, while the job runs on. Answers notices.
    pub async fn check_upgrade(
        &self,
        (before, old): (&Arc<Catalog>, &JobDefinition),
        (after, new): (&Arc<Catalog>, &JobDefinition),
    ) -> anyhow::Result<Vec<String>> {
        let name = &old.name;
        if old.targets != new.targets {
            let tables = |job: &JobDefinition| job.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            bail!(
                "job {name} fills {} and would fill {}, where the rows written so far would be missing; {}",
                tables(old),
                tables(new),
                choices(name)
            );
        }
        let old_spec = self.spec(old, &self.plan(before.clone(), old).await?).await?;
        let plan = self.plan(after.clone(), new).await?;
        let new_spec = self.spec(new, &plan).await?;
        if let Some(why) = difference(&old_spec, &new_spec) {
            bail!("job {name} cannot keep its state: {why}; {}", choices(name));
        }
        self.ensure_targets(&plan).await?;
        self.ensure_topics(&new_spec).await?;
        let stay = format!(
            "job {name} goes on with its state: rows of keys that do not change are not written again, and rows that it no longer makes stay; {}",
            restart::anew(name, restart::keeping_target(&plan))
        );
        Ok([stay].into_iter().chain(planning::notices(&plan, &new_spec.template)?).collect())
    }

    /// Ends the job's loop once all that is recorded is written, so that no part waits for a sink that reads it in another way.
    pub async fn end_for_upgrade(&self, definition: &JobDefinition) -> anyhow::Result<()> {
        let handle = self.running(&definition.name)?;
        let (_hold, _) = handle.at_rest().await.map_err(|error| anyhow!("{error}; it goes on as it was"))?;
        let next_attempt = handle.end().await;
        self.attempts.lock().insert(handle.incarnation.clone(), next_attempt);
        // What they hold and read ahead is the old definition's.
        self.context().executors.forget(&handle.incarnation);
        Ok(())
    }

    /// Tells the history of a job that goes on with another definition.
    pub fn note_upgrade(&self, job: &str) {
        let Ok(handle) = self.running(job) else { return };
        let (generation, at_us) = (self.context().generation, self.context().clock.now().wall_us);
        let epoch = handle.view().manifest.epoch;
        handle.note(JobEvent::new(generation, at_us, EventKind::Upgraded, epoch, "the job goes on with another definition"));
    }
}

fn choices(job: &str) -> String {
    format!(
        "it runs on as it was. Choose: a definition that leaves these operators alone; or a job of another name into a table of its own; or a savepoint (polybolos job savepoint {job}) to come back to, then DROP JOB {job} and CREATE JOB with the new definition, which reads its topics again from where their options say and writes over rows of the same key"
    )
}

/// Why the new job could not go on with what the old one has recorded.
pub(super) fn difference(old: &JobSpec, new: &JobSpec) -> Option<String> {
    let topics = |spec: &JobSpec| spec.sources.values().map(|source| source.topic.clone()).collect::<Vec<_>>();
    if topics(old) != topics(new) || old.sources.iter().any(|(id, source)| new.sources[id].connection != source.connection) {
        return Some(format!("it reads topics {}, and would read {}", topics(old).join(", "), topics(new).join(", ")));
    }
    match (&*old.template, &*new.template) {
        (JobTemplate::Stateless(_), JobTemplate::Stateless(_)) => None,
        (JobTemplate::Stateful(old), JobTemplate::Stateful(new)) => {
            let (old, new) = (old.flow(), new.flow());
            // Where rows come out with every change, the watermark that state is dropped by just goes on from where it is.
            let on_close = |flow: &Flow| flow.spec.sinks.iter().any(|sink| sink.emit_on_close);
            if old.spec.allowed_lateness_us != new.spec.allowed_lateness_us && (on_close(old) || on_close(new)) {
                return Some("'allowed_lateness' is another, and rows of open windows are held back by it".into());
            }
            if let Some((before, after)) = first_difference(&old.kept(), &new.kept()) {
                return Some(changed(before, after));
            }
            if old.spec.window_ends != new.spec.window_ends || old.spec.event_times != new.spec.event_times {
                return Some("its rows would be late by another rule, as its windows or watermarks are others".into());
            }
            (old.spec.ttl_us != new.spec.ttl_us).then(|| "'state.ttl' is another, and state is kept by it".into())
        }
        (JobTemplate::Stateless(_), JobTemplate::Stateful(new)) => {
            let first = new.flow().kept().into_iter().next();
            Some(changed(None, first.as_ref()))
        }
        (JobTemplate::Stateful(old), JobTemplate::Stateless(_)) => {
            let first = old.flow().kept().into_iter().next();
            Some(changed(first.as_ref(), None))
        }
    }
}

/// Characters of an operator's beginning that are shown where it differs from another only further on.
const BEGINNING: usize = 40;

fn changed(before: Option<&Kept>, after: Option<&Kept>) -> String {
    match (before, after) {
        (Some(before), Some(after)) if before.shown == after.shown => {
            format!(
                "operator {} would read other rows or columns than those its state is made of",
                up_to(&before.shown, SHOWN_OPERATOR)
            )
        }
        (Some(before), Some(after)) => {
            let same = before.shown.chars().zip(after.shown.chars()).take_while(|(before, after)| before == after).count();
            format!("operator {} would be {}", around(&before.shown, same), around(&after.shown, same))
        }
        (Some(before), None) => format!("operator {} would be gone", up_to(&before.shown, SHOWN_OPERATOR)),
        (None, Some(after)) => {
            format!("operator {} would be new, without what the job has read so far", up_to(&after.shown, SHOWN_OPERATOR))
        }
        (None, None) => "it would keep its state in another way".into(),
    }
}

/// An operator's text with what comes after its first `same` characters.
fn around(text: &str, same: usize) -> String {
    if same + BEGINNING < SHOWN_OPERATOR {
        return up_to(text, SHOWN_OPERATOR);
    }
    let rest: String = text.chars().skip(same - BEGINNING).collect();
    up_to(text, BEGINNING) + &up_to(&rest, SHOWN_OPERATOR - BEGINNING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_shown_where_they_differ() {
        let short = "Aggregate by k: sum(v)";
        assert_eq!(around(short, 16), short);
        let columns = (0..100).map(|number| format!("sum(v{number})")).collect::<Vec<_>>().join(", ");
        let (before, after) = (format!("Aggregate by k: {columns}, min(x)"), format!("Aggregate by k: {columns}, max(x)"));
        let same = before.chars().zip(after.chars()).take_while(|(before, after)| before == after).count();
        for (text, end) in [(before, "min(x)"), (after, "max(x)")] {
            let shown = around(&text, same);
            assert!(shown.starts_with("Aggregate by k: sum(v0)") && shown.ends_with(end), "{shown}");
            assert!(shown.chars().count() < SHOWN_OPERATOR, "{shown}");
        }
    }
}
