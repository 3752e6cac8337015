//! `INSERT INTO t (columns) query`: which column gets what, cast to the type it has there.
use std::collections::BTreeSet;

use datafusion::{
    arrow::{compute::can_cast_types, datatypes::DataType},
    common::{
        Column, DFSchema,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    logical_expr::{Cast, Expr, LogicalPlan, LogicalPlanBuilder},
    sql::sqlparser::ast,
};
use polybolos_tables::plain::{counted, shortened};

use super::{exact, has_twins, plan_in};
use crate::{
    catalog::{Catalog, ColumnDefinition, ColumnKind, Connector, TableDefinition, sources, target},
    error::{SqlError, did_you_mean},
    functions,
    names::RelationName,
    parser,
    statement::{Emit, Insert},
    types::SqlType,
};

#[derive(Clone, Debug)]
pub struct InsertPlan {
    pub target: TableDefinition,
    /// The target's columns that are written, in the order of the plan's output; all others stay unset.
    pub columns: Vec<String>,
    /// Its output has exactly `columns`, by name and type. Casts fail on rows that do not fit.
    pub plan: LogicalPlan,
    /// The declared tables it reads, through views too, by name.
    pub sources: Vec<TableDefinition>,
    /// The declared tables it looks up (`FOR SYSTEM_TIME AS OF`), by name. Their scans in `plan` are in schema `lookup:…`.
    pub lookups: Vec<TableDefinition>,
    /// When rows of groups are written.
    pub emit: Emit,
    /// Of a job: whether it is more than projections and filters over one scan.
    pub is_stateful: bool,
    /// Of a job: whether rows are late for it.
    pub judges_time: bool,
}

pub(super) fn is_unbounded(catalog: &Catalog, insert: &Insert) -> Result<bool, SqlError> {
    Ok(Tables::of(catalog, insert)?.read.iter().any(TableDefinition::is_unbounded))
}

/// The declared tables that an INSERT stands on.
struct Tables {
    read: Vec<TableDefinition>,
    looked_up: Vec<TableDefinition>,
}

impl Tables {
    fn of(catalog: &Catalog, insert: &Insert) -> Result<Self, SqlError> {
        let found = sources(catalog, insert)?;
        let tables = |names: &BTreeSet<RelationName>| -> Result<Vec<TableDefinition>, SqlError> {
            names.iter().map(|name| catalog.table(name).cloned()).collect()
        };
        Ok(Self { read: tables(&found.tables)?, looked_up: tables(&found.lookups)? })
    }
}

/// That an INSERT can be a job: it reads streams, and looks the rest up.
pub(super) fn check_is_stream(catalog: &Catalog, subject: &str, insert: &Insert) -> Result<(), SqlError> {
    let tables = Tables::of(catalog, insert)?;
    check_sources(&tables.read, insert)?;
    let refuse = |message: String| Err(SqlError::unsupported_at(insert.at, message));
    if tables.read.is_empty() {
        return refuse(format!(
            "{subject} reads no stream, so it would end at once; write INSERT INTO … without CREATE JOB, or read a Kafka table"
        ));
    }
    if !tables.read.iter().any(TableDefinition::is_unbounded) {
        let table = &tables.read[0];
        return refuse(format!(
            "{subject} reads {}, which ends ({}); write INSERT INTO … without CREATE JOB, which runs once to the end",
            table.name,
            table.connector.name()
        ));
    }
    // Files are read once, when the job starts.
    let is_followed = |table: &TableDefinition| table.is_unbounded() || matches!(table.connector, Connector::Filesystem(_));
    if let Some(table) = tables.read.iter().find(|table| !is_followed(table)) {
        return refuse(match table.connector {
            Connector::Kafka(_) | Connector::UpsertKafka(_) => format!(
                "{subject} reads {}, which ends, beside tables that do not; leave 'scan.bounded.mode' out of its declaration",
                table.name
            ),
            _ => format!(
                "{subject} reads {} ({}) beside streams, and its changes cannot be followed; look it up: JOIN {} FOR SYSTEM_TIME AS OF PROCTIME() AS t ON …",
                table.name,
                table.connector.name(),
                table.name
            ),
        });
    }
    match tables.looked_up.iter().find(|table| !matches!(table.connector, Connector::Cassandra(_))) {
        Some(table) if table.keeps_last_record() => refuse(format!(
            "{subject} looks up {}, whose rows are followed as they change; leave FOR SYSTEM_TIME AS OF out: JOIN {} AS r ON …, or have a job INSERT INTO a Cassandra table from it and look that up",
            table.name, table.name
        )),
        Some(table) => refuse(format!(
            "{subject} looks up {} ({}); only Cassandra tables are looked up; for the version of that time join it ON key AND r.ts <= s.ts and keep the newest, ROW_NUMBER() OVER (PARTITION BY s.id ORDER BY r.ts DESC) = 1",
            table.name,
            table.connector.name()
        )),
        None => Ok(()),
    }
}

pub(super) async fn plan(state: &SessionState, catalog: &Catalog, insert: &Insert) -> Result<InsertPlan, SqlError> {
    let target = catalog.table(&target(catalog, insert)?)?.clone();
    let Tables { read: sources, looked_up: lookups } = Tables::of(catalog, insert)?;
    check_target(&target, insert)?;
    check_sources(&sources, insert)?;
    let columns = written_columns(&target, insert)?;
    let query = plan_nameless(state, &insert.query).await?;
    check_count(&target, &columns, &query, insert)?;
    // A query whose types cannot be settled fails later, and says why.
    let given = settled(state, &query).map_or_else(|_| query.schema().clone(), |settled| settled.schema().clone());
    let mut projected = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        projected.push(value(&target, column, &query, &given, index, insert)?);
    }
    let plan = LogicalPlanBuilder::from(query).project(projected)?.build()?;
    let columns = columns.iter().map(|column| column.name.clone()).collect();
    Ok(InsertPlan { target, columns, plan, sources, lookups, emit: insert.emit, is_stateful: false, judges_time: false })
}

/// A plan with the types that its rows have: those of a union of other types than its first branch, or of a CASE of several, are
/// known only then.
pub(super) fn settled(state: &SessionState, plan: &LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {})
}

/// A query whose columns have no names that matter. DataFusion wants names that differ, so what is selected twice is called `name (2)`; and where that is not
/// enough, as `upper(a)` and `UPPER(a)` or `a` and `t.a` are one to it, every expression is, and every column that may be another.
pub(super) async fn plan_nameless(state: &SessionState, query: &ast::Query) -> Result<LogicalPlan, SqlError> {
    match plan_in(state, &with_names(query, Named::Twins)).await {
        Err(error) if matches!(&error, SqlError::Plan { source, .. } if has_twins(source)) => {
            plan_in(state, &with_names(query, Named::Alike)).await.map_err(|_| error)
        }
        planned => planned,
    }
}

/// What gets a name with its place.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Named {
    /// What is written as another is.
    Twins,
    /// Whatever may be another: all expressions, columns of one name, and all columns beside a wildcard.
    Alike,
}

pub(super) fn with_names(query: &ast::Query, named: Named) -> ast::Query {
    let mut query = query.clone();
    name_items(&mut query.body, named);
    query
}

fn name_items(body: &mut ast::SetExpr, named: Named) {
    match body {
        ast::SetExpr::Select(select) => {
            let has_wildcard = select.projection.iter().any(parser::is_wildcard);
            let mut known: Vec<Vec<String>> = Vec::new();
            for (place, item) in select.projection.iter_mut().enumerate() {
                let (name, path, expr, is_unnamed) = match item {
                    ast::SelectItem::UnnamedExpr(expr) => {
                        let beneath = parser::beneath(expr);
                        let path = path_of(beneath);
                        (beneath.to_string(), path.clone(), expr, path.is_none() || has_wildcard)
                    }
                    ast::SelectItem::ExprWithAlias { expr, alias } => {
                        (alias.value.clone(), Some(vec![parser::folded(alias)]), expr, false)
                    }
                    _ => continue,
                };
                let path = path.filter(|_| named == Named::Alike).unwrap_or_else(|| vec![name.clone()]);
                // Without its table it may be a column of any.
                let is_known = known.iter().any(|other| other.ends_with(&path) || path.ends_with(other));
                if is_known || (is_unnamed && named == Named::Alike) {
                    let alias = ast::Ident::with_quote('"', format!("{name} ({})", place + 1));
                    *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
                known.push(path);
            }
        }
        ast::SetExpr::SetOperation { left, right, .. } => {
            name_items(left, named);
            name_items(right, named);
        }
        ast::SetExpr::Query(query) => name_items(&mut query.body, named),
        _ => {}
    }
}

/// What names a column, as DataFusion reads it.
fn path_of(expression: &ast::Expr) -> Option<Vec<String>> {
    match expression {
        ast::Expr::Identifier(name) => Some(vec![parser::folded(name)]),
        ast::Expr::CompoundIdentifier(parts) => Some(parts.iter().map(parser::folded).collect()),
        _ => None,
    }
}

fn check_target(target: &TableDefinition, insert: &Insert) -> Result<(), SqlError> {
    if target.debezium().is_some() {
        let message = format!(
            "table {} has 'format' = 'debezium-json', which is only read; write to a table with 'connector' = 'upsert-kafka'",
            target.name
        );
        return Err(SqlError::unsupported_at(insert.at, message));
    }
    let is_metadata = |column: &&ColumnDefinition| matches!(column.kind, ColumnKind::Metadata { is_virtual: false, .. });
    match target.columns.iter().find(is_metadata) {
        Some(column) => {
            let message = format!(
                "column {} of table {} is METADATA, which is not written; declare it METADATA VIRTUAL",
                column.name, target.name
            );
            Err(SqlError::unsupported_at(insert.at, message))
        }
        None => Ok(()),
    }
}

fn check_sources(sources: &[TableDefinition], insert: &Insert) -> Result<(), SqlError> {
    match sources.iter().find(|table| !table.is_readable()) {
        Some(table) => {
            let message = format!(
                "table {} ({}) only takes rows; read a Kafka or Cassandra table, or files",
                table.name,
                table.connector.name()
            );
            Err(SqlError::invalid_at(insert.at, message))
        }
        None => Ok(()),
    }
}

fn written_columns<'a>(target: &'a TableDefinition, insert: &Insert) -> Result<Vec<&'a ColumnDefinition>, SqlError> {
    if insert.columns.is_empty() {
        return Ok(target.writable_columns().collect());
    }
    let mut columns = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let Some(column) = target.writable_columns().find(|column| column.name == *name) else {
            let hint = match did_you_mean(name, target.writable_columns().map(|column| column.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("DESCRIBE {} lists them", target.name),
            };
            return Err(SqlError::invalid_at(insert.at, format!("table {} has no column {name}; {hint}", target.name)));
        };
        columns.push(column);
    }
    let given = |name: &&str| insert.columns.iter().any(|column| column == name);
    let missing: Vec<&str> = target.primary_key.iter().flat_map(|key| key.columns()).filter(|name| !given(name)).collect();
    if !missing.is_empty() {
        let message =
            format!("INSERT INTO {} leaves out {} of its primary key; add it to the column list", target.name, missing.join(", "));
        return Err(SqlError::invalid_at(insert.at, message));
    }
    Ok(columns)
}

fn check_count(
    target: &TableDefinition,
    columns: &[&ColumnDefinition],
    query: &LogicalPlan,
    insert: &Insert,
) -> Result<(), SqlError> {
    let given = query.schema().fields().len();
    if given == columns.len() {
        return Ok(());
    }
    let without_value: Vec<&str> = columns.iter().skip(given).map(|column| column.name.as_str()).collect();
    let remedy = if without_value.is_empty() {
        format!("select only {}", columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "))
    } else {
        format!("select a value for {} too, or name the columns: INSERT INTO {} (…)", without_value.join(", "), target.name)
    };
    let columns = counted(columns.len() as u64, "column");
    let message = format!("INSERT INTO {} fills {columns} and the SELECT gives {given}; {remedy}", target.name);
    Err(SqlError::invalid_at(insert.at, message))
}

/// Output `index` of the query, which is `given` once types are settled, as `column`.
fn value(
    target: &TableDefinition,
    column: &ColumnDefinition,
    query: &LogicalPlan,
    given: &DFSchema,
    index: usize,
    insert: &Insert,
) -> Result<Expr, SqlError> {
    let (qualifier, field) = query.schema().qualified_field(index);
    let (given_type, wanted) = (given.field(index).data_type(), target.data_type(column));
    let is_written_as_json = given_type.is_nested() && wanted == DataType::Utf8;
    // Literals of VALUES are of the type that they can be read as.
    let is_cast = is_assigned(given_type, &wanted) || matches!(query, LogicalPlan::Values(_));
    let fits = is_written_as_json || (is_cast && can_cast_types(given_type, &wanted));
    if !fits {
        // What is selected twice is written without its place.
        let name = field.name().strip_suffix(&format!(" ({})", index + 1)).unwrap_or(field.name());
        let name = expression_at(&insert.query, index).unwrap_or_else(|| name.to_owned());
        let given = SqlType::of_arrow(given_type).map_or_else(|| given_type.to_string(), |known| known.to_string());
        let remedy = if can_cast_types(given_type, &wanted) {
            format!(
                "values go to columns by their position: name the columns in that order, or write CAST({name} AS {})",
                column.sql_type
            )
        } else {
            "which cannot be cast".to_owned()
        };
        let message = format!(
            "column {} of table {} is {}, and the SELECT gives {name} ({given}) for it; {remedy}",
            column.name, target.name, column.sql_type
        );
        return Err(SqlError::invalid_at(insert.at, message));
    }
    let column_of_query = Expr::Column(Column::from((qualifier, field)));
    let given = match *given_type == wanted {
        true => column_of_query,
        false if is_written_as_json => functions::to_json().call(vec![column_of_query]),
        false => Expr::Cast(Cast::new(Box::new(exact::whole_units(column_of_query, given_type, &wanted)), wanted)),
    };
    let given = if column.sql_type == SqlType::Uuid { functions::as_uuid().call(vec![given]) } else { given };
    Ok(given.alias(&column.name))
}

/// An expression that is selected, in SQL's words, where all that is selected is written out; columns are known by their names.
fn expression_at(query: &ast::Query, index: usize) -> Option<String> {
    let items = &query.body.as_select()?.projection;
    match items.get(index)? {
        ast::SelectItem::UnnamedExpr(expr) if path_of(expr).is_none() && !items.iter().any(parser::is_wildcard) => {
            Some(shortened(&expr.to_string()))
        }
        _ => None,
    }
}

/// What is cast without being asked for, as in PostgreSQL: within numbers, within times, and to text; not what takes a text for a number or a time for a count, as
/// columns in the wrong order would do.
fn is_assigned(given: &DataType, wanted: &DataType) -> bool {
    let is_text = |data_type: &DataType| data_type.is_string();
    let kinds: [fn(&DataType) -> bool; 3] =
        [DataType::is_numeric, DataType::is_temporal, |data_type| *data_type == DataType::Boolean];
    let kind = |data_type: &DataType| kinds.iter().position(|is_of| is_of(data_type));
    match (kind(given), kind(wanted)) {
        (Some(given), Some(wanted)) => given == wanted,
        (None, Some(_)) => !is_text(given),
        (_, None) => true,
    }
}

/// That the optimised plan still reads a stream, and has the output that was asked for.
pub(super) fn check_optimised(subject: &str, planned: &InsertPlan) -> Result<(), SqlError> {
    let (mut reads, mut has_rows_of_its_own) = (false, false);
    planned.plan.apply(|node| {
        match node {
            LogicalPlan::TableScan(scan) => reads |= RelationName::from(&scan.table_name).looked_up().is_none(),
            LogicalPlan::EmptyRelation(relation) => has_rows_of_its_own |= relation.produce_one_row,
            // Also over nothing.
            LogicalPlan::Aggregate(aggregate) => has_rows_of_its_own |= aggregate.group_expr.is_empty(),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !reads && has_rows_of_its_own {
        return Err(SqlError::invalid(format!(
            "{subject} gives the same rows whatever its streams bring, as nothing of their records is in its answer; select something of them, or write these rows once: INSERT INTO {} VALUES (…)",
            planned.target.name
        )));
    }
    if !reads {
        return Err(SqlError::invalid(format!(
            "{subject} can never give a row, as its condition is always false or its LIMIT is 0; correct its WHERE, ON, HAVING or LIMIT"
        )));
    }
    let fits = planned.plan.schema().fields().iter().zip(&planned.columns).all(|(field, name)| {
        field.name() == name
            && planned.target.column(name).is_some_and(|column| planned.target.data_type(column) == *field.data_type())
    });
    if fits && planned.plan.schema().fields().len() == planned.columns.len() {
        return Ok(());
    }
    let found = planned.plan.schema();
    Err(datafusion::common::DataFusionError::Internal(format!("{subject}: the optimised plan has other columns: {found}")).into())
}
