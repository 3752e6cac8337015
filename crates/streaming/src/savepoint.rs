//! A savepoint: what a job's manifest said at one moment, kept under a name. It names the files that its state is made of, and as long as it does they stay
//! (EPOCHS rule 4); another incarnation of the job can begin with it.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Epoch, Incarnation, JobName, SourceId},
    manifest::{Manifest, SourcePosition, StateRun},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savepoint {
    pub name: String,
    pub job: JobName,
    /// Whose state it is.
    pub incarnation: Incarnation,
    pub created_at_us: i64,
    /// The last epoch in it.
    pub epoch: Epoch,
    pub sources: BTreeMap<SourceId, SourcePosition>,
    pub watermark_us: Option<i64>,
    pub frame_watermark_us: Option<i64>,
    #[serde(default)]
    pub fired_us: Option<i64>,
    pub state: Vec<StateRun>,
    pub shape: Shape,
}

/// What a job must have in common with a savepoint to begin with it, as texts that can be compared and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The job's statement, its views, and what it reads and writes.
    pub definition: Vec<String>,
    /// Its operators with what each keeps, a line each.
    pub operators: Vec<String>,
    /// As in the manifest.
    #[serde(default)]
    pub layout: Vec<String>,
    /// As in the manifest.
    #[serde(default)]
    pub kept_columns: Vec<String>,
}

impl Shape {
    /// The first thing of the savepoint that the job has otherwise: what it was, and what it is.
    pub fn first_difference<'a>(&'a self, now: &'a Shape) -> Option<(&'a str, &'a str)> {
        let lists = [(&self.operators, &now.operators), (&self.definition, &now.definition), (&self.layout, &now.layout)];
        let listed = lists.into_iter().find_map(|(then, now)| first_difference(then, now));
        listed.or_else(|| first_other_column(&self.kept_columns, &now.kept_columns))
    }
}

/// The first line that is another: what it was, and what it is.
pub(crate) fn first_difference<'a>(then: &'a [String], now: &'a [String]) -> Option<(&'a str, &'a str)> {
    let length = then.len().max(now.len());
    let line = |lines: &'a [String], index: usize| lines.get(index).map_or("nothing", |line| line.trim());
    (0..length).find(|&index| then.get(index) != now.get(index)).map(|index| (line(then, index), line(now, index)))
}

/// The first column kept that is another, where it was told what they are.
pub(crate) fn first_other_column<'a>(then: &'a [String], now: &'a [String]) -> Option<(&'a str, &'a str)> {
    if then.is_empty() { None } else { first_difference(then, now) }
}

impl Savepoint {
    pub fn of(name: &str, manifest: &Manifest, shape: Shape, now_us: i64) -> Self {
        Self {
            name: name.to_owned(),
            job: manifest.job.clone(),
            incarnation: manifest.incarnation.clone(),
            created_at_us: now_us,
            epoch: manifest.epoch,
            sources: manifest.sources.clone(),
            watermark_us: manifest.watermark_us,
            frame_watermark_us: manifest.frame_watermark_us,
            fired_us: manifest.fired_us,
            state: manifest.state.clone(),
            shape: Shape { layout: manifest.layout.clone(), kept_columns: manifest.kept_columns.clone(), ..shape },
        }
    }

    /// Makes a new incarnation's first manifest go on from here. Epochs are counted on, as the state's runs name them.
    pub fn begin(&self, manifest: &mut Manifest) {
        manifest.epoch = self.epoch;
        manifest.sources.clone_from(&self.sources);
        manifest.sources.values_mut().for_each(|position| position.first = None);
        manifest.watermark_us = self.watermark_us;
        manifest.frame_watermark_us = self.frame_watermark_us;
        manifest.fired_us = self.fired_us;
        manifest.state.clone_from(&self.state);
        manifest.published.values_mut().for_each(|published| *published = self.epoch);
    }

    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.state.iter().map(|run| run.name.as_str())
    }

    pub fn bytes(&self) -> u64 {
        self.state.iter().map(|run| run.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        let shape = |definition: &[&str], operators: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
            Shape {
                definition: owned(definition),
                operators: owned(operators),
                layout: owned(&["state in format 1"]),
                ..Shape::default()
            }
        };
        let then = shape(&["SELECT a"], &["Aggregate: by [a]", "  Source 0"]);
        assert_eq!(then.first_difference(&then.clone()), None);
        let now = shape(&["SELECT b"], &["Aggregate: by [b]", "  Source 0"]);
        assert_eq!(then.first_difference(&now), Some(("Aggregate: by [a]", "Aggregate: by [b]")));
        let now = shape(&["SELECT b"], &then.operators.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(then.first_difference(&now), Some(("SELECT a", "SELECT b")));
        assert_eq!(then.first_difference(&shape(&["SELECT a"], &[])), Some(("Aggregate: by [a]", "nothing")));
        let now = Shape { layout: vec!["state in format 2".into()], ..then.clone() };
        assert_eq!(then.first_difference(&now), Some(("state in format 1", "state in format 2")));
        let of = |column: &str| Shape { kept_columns: vec![column.to_owned()], ..then.clone() };
        assert_eq!(then.first_difference(&of("key a Date32")), None, "an earlier version did not tell them");
        assert_eq!(of("key a Date32").first_difference(&of("key a Date32")), None);
        assert_eq!(of("key a Date32").first_difference(&of("key a Int32")), Some(("key a Date32", "key a Int32")));
    }
}
