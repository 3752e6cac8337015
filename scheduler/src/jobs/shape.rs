//! What a job has in common with itself under another incarnation, and must have in common with a savepoint to begin with it.
use polybolos_operators::template::JobTemplate;
use polybolos_sql::{
    catalog::{Catalog, JobDefinition},
    error::SqlError,
    limits::Limits,
    redact, show,
};
use polybolos_streaming::savepoint::Shape;

use super::spec::JobSpec;

/// Options of a table that say what its rows are, not where they come from.
const MEANING: [&str; 5] = ["connector", "topic", "format", "keyspace", "table"];

/// The job as its texts say, without options of its own; and its operators as EXPLAIN shows them.
pub fn of(catalog: &Catalog, definition: &JobDefinition, spec: &JobSpec) -> Result<Shape, SqlError> {
    let mut lines = vec![];
    for insert in definition.statement(Limits::default())?.inserts {
        lines.push(format!("INSERT INTO {} ({}) {} {:?}", insert.target, insert.columns.join(", "), insert.query, insert.emit));
    }
    for view in &definition.views {
        lines.push(redact::sql(&catalog.view(view)?.sql));
    }
    for table in definition.sources.iter().chain(&definition.targets) {
        let mut table = catalog.table(table)?.clone();
        table.options.retain(|(key, _)| MEANING.contains(&key.as_str()) || key.starts_with("json."));
        lines.push(show::create_table(&table));
    }
    let operators = match &*spec.template {
        JobTemplate::Stateless(_) => vec![],
        JobTemplate::Stateful(template) => {
            let graph = template.flow().dataflow.graph();
            (0..graph.sinks().len()).flat_map(|sink| graph.explain(sink).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
        }
    };
    Ok(Shape { definition: lines, operators, layout: spec.template.layout() })
}
