//! Tables that a query gives options of its own, `t /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */`: the declared table under another name, for as long as
//! the statement is planned. The options stay in the statement's text, of which a job is planned again.
use std::{borrow::Cow, collections::BTreeSet};

use datafusion::sql::sqlparser::ast;

use super::{Catalog, Connector, TableDefinition, references};
use crate::{
    error::{SqlError, did_you_mean},
    limits::Limits,
    location::Location,
    names::RelationName,
    options::{OptionReader, kafka::KafkaOptions, upsert_kafka::UpsertKafkaOptions},
    statement::OptionEntry,
};

/// Where a table begins, and where it ends.
const MODES: [&str; 2] = ["scan.startup.mode", "scan.bounded.mode"];

/// What a query may say otherwise than the declaration does.
const KNOWN: [&str; 6] = [
    MODES[0],
    "scan.startup.timestamp-millis",
    "scan.startup.specific-offsets",
    MODES[1],
    "scan.bounded.timestamp-millis",
    "scan.bounded.specific-offsets",
];

impl Catalog {
    /// This catalog, with the tables that `queries` and their views give options of their own.
    ///
    /// # Errors
    /// When such a table does not exist, or does not take the options.
    pub(crate) fn with_options_of<'a>(&self, queries: impl IntoIterator<Item = &'a ast::Query>) -> Result<Cow<'_, Self>, SqlError> {
        let mut catalog = Cow::Borrowed(self);
        let mut seen = BTreeSet::new();
        let mut waiting = Vec::new();
        for query in queries {
            waiting.extend(references(query)?);
        }
        while let Some(name) = waiting.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(view) = self.find_view(&name) {
                waiting.extend(references(&view.statement(Limits::default())?.query)?);
            } else if let Some((declared, options)) = name.without_options() {
                if self.find_view(&declared).is_some() {
                    let message = format!("{declared} is a view, which takes no OPTIONS; write them after the tables in its query");
                    return Err(SqlError::unsupported(message));
                }
                catalog.to_mut().tables.push(self.table(&declared)?.with_options(name, &options)?);
            }
        }
        Ok(catalog)
    }
}

impl TableDefinition {
    fn with_options(&self, name: RelationName, given: &[(String, String)]) -> Result<Self, SqlError> {
        if let Some((key, _)) = given.iter().find(|(key, _)| !KNOWN.contains(&key.as_str())) {
            let hint = match did_you_mean(key, KNOWN) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known are '{}'; for others declare another table over the topic", KNOWN.join("', '")),
            };
            return Err(SqlError::unsupported(format!(
                "unknown option '{key}' of table {} in OPTIONS of a query; {hint}",
                self.name
            )));
        }
        let mut options = self.options.clone();
        for mode in MODES.iter().filter(|mode| given.iter().any(|(key, _)| key == *mode)) {
            // What belongs to the declared mode goes with it.
            options.retain(|(key, _)| !key.starts_with(mode.trim_end_matches("mode")));
        }
        options.retain(|(key, _)| !given.iter().any(|(other, _)| other == key));
        options.extend_from_slice(given);
        let entry = |(key, value): &(String, String)| OptionEntry { key: key.clone(), value: value.clone(), at: Location::START };
        let entries: Vec<OptionEntry> = options.iter().map(entry).collect();
        let object = format!("table {}", self.name);
        let mut reader = OptionReader::new(&object, &entries);
        let connector = match &self.connector {
            Connector::Kafka(_) => KafkaOptions::read(&mut reader).map(Connector::Kafka),
            Connector::UpsertKafka(_) => UpsertKafkaOptions::read(&mut reader).map(Connector::UpsertKafka),
            other => Err(SqlError::unsupported(format!(
                "table {} ({}) takes no OPTIONS in a query, which say where a Kafka table begins and ends; leave them out",
                self.name,
                other.name()
            ))),
        };
        // Its place is none of the statement's.
        let connector = connector.map_err(|error| match error {
            SqlError::Invalid { message, .. } => SqlError::invalid(message),
            other => other,
        })?;
        Ok(Self { name, connector, options, ..self.clone() })
    }
}
