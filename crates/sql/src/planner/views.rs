//! Views, tables with computed columns, and tables whose rows are the last records of their keys: all are plans that stand where their name is
//! written, made before the query that names them.
use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    catalog::view::ViewTable,
    common::{ScalarValue, TableReference},
    datasource::provider_as_source,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    sql::sqlparser::ast,
};

use super::{Planning, has_twins, headings, insert::plan_nameless, plan_in, records};
use crate::{
    catalog::{TableDefinition, computed, references},
    error::SqlError,
    limits::Limits,
    names::{RESERVED_SCHEMAS, RelationName, SYSTEM_SCHEMA},
    schema::Use,
    statement::CreateView,
};

/// Deepest chain of views over views.
const MAX_DEPTH: usize = 64;

/// What has a plan, in the order in which they stand on each other.
#[derive(Default)]
struct Order {
    seen: BTreeSet<RelationName>,
    items: Vec<Item>,
}

enum Item {
    Table(TableDefinition),
    View(CreateView),
}

impl Planning {
    /// Plans every view and table with a plan that `query` stands on.
    pub(super) async fn prepare(&self, query: &ast::Query) -> Result<(), SqlError> {
        let mut order = Order::default();
        let named = references(query)?;
        // `information_schema` and PostgreSQL's catalog show the columns of all.
        let shows_all = named.iter().any(|name| RESERVED_SCHEMAS.contains(&name.schema.as_str()) && name.schema != SYSTEM_SCHEMA);
        for name in &named {
            self.order(name, &mut order, 0)?;
        }
        if shows_all {
            let all = self.catalog.views.iter().map(|view| &view.name).chain(self.catalog.tables.iter().map(|table| &table.name));
            for name in all {
                self.order(name, &mut order, 0)?;
            }
        }
        for item in order.items {
            match item {
                Item::Table(table) => {
                    let plan = self.table(&table).await?;
                    self.ours.put(table.name.clone(), Arc::new(ViewTable::new(plan, None)));
                }
                Item::View(view) => {
                    let planned = self.view(&view).await;
                    // A broken view hides itself alone.
                    let plan = match planned {
                        Err(_) if shows_all => continue,
                        planned => planned?,
                    };
                    self.ours.put(view.name.clone(), Arc::new(ViewTable::new(plan, None)));
                }
            }
        }
        Ok(())
    }

    fn order(&self, name: &RelationName, order: &mut Order, depth: usize) -> Result<(), SqlError> {
        // Where it is only read, a table that is looked up is as any other.
        let name = &name.looked_up().unwrap_or_else(|| name.clone());
        if !order.seen.insert(name.clone()) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(SqlError::invalid(format!(
                "view {name} stands on more than {MAX_DEPTH} views over each other; flatten them"
            )));
        }
        if let Some(view) = self.catalog.find_view(name) {
            let create = view.statement(Limits::default())?;
            for source in references(&create.query)? {
                self.order(&source, order, depth + 1)?;
            }
            order.items.push(Item::View(create));
        } else if let Some(table) = self.catalog.find_table(name).filter(|table| table.has_plan()) {
            order.items.push(Item::Table(table.clone()));
        }
        Ok(())
    }

    async fn table(&self, table: &TableDefinition) -> Result<LogicalPlan, SqlError> {
        let provider = self.providers.provider(&table.stored(), self.usage).await?;
        let name = TableReference::partial(table.name.schema.clone(), table.name.name.clone());
        let scan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?;
        let rows =
            if table.keeps_last_record() { records::rows(scan, table, self.verifies || self.usage == Use::Bounded)? } else { scan };
        Ok(rows.project(computed::expressions(&self.state, table)?)?.build()?)
    }

    /// A view's plan, its columns named.
    pub(super) async fn view(&self, view: &CreateView) -> Result<LogicalPlan, SqlError> {
        // Its columns have names of their own, whatever is selected twice.
        let planned = match view.columns.is_empty() {
            true => plan_in(&self.state, &view.query).await,
            false => plan_nameless(&self.state, &view.query).await,
        };
        let plan = planned.map_err(|error| match &error {
            SqlError::Plan { source, .. } if has_twins(source) => {
                let message = format!("view {} has two columns of one name; name them apart with AS", view.name);
                SqlError::invalid_at(view.at, message)
            }
            _ => error,
        })?;
        if let Some(parameter) = plan.get_parameter_names()?.into_iter().min() {
            let message = format!("view {} has the parameter {parameter} in it, which nobody gives; write its value", view.name);
            return Err(SqlError::invalid_at(view.at, message));
        }
        let fields = plan.schema().fields().len();
        if !view.columns.is_empty() && view.columns.len() != fields {
            let message =
                format!("view {} names {} columns and its query gives {fields}; name them all", view.name, view.columns.len());
            return Err(SqlError::invalid_at(view.at, message));
        }
        let names: Vec<String> = (0..fields)
            .map(|index| match view.columns.get(index) {
                Some(name) => name.clone(),
                None => field_name(&plan, index).unwrap_or_else(|| plan.schema().field(index).name().clone()),
            })
            .collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            let message = format!("view {} has two columns {twice}; name them apart with AS", view.name);
            return Err(SqlError::invalid_at(view.at, message));
        }
        headings::renamed(plan, &names)
    }
}

/// `SELECT person.id` over a ROW gives a column `id`, as in Flink.
fn field_name(plan: &LogicalPlan, index: usize) -> Option<String> {
    let LogicalPlan::Projection(projection) = plan else { return None };
    let Expr::ScalarFunction(function) = projection.expr.get(index)? else { return None };
    if function.name() != "get_field" {
        return None;
    }
    match function.args.last()? {
        Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)), _) => Some(name.clone()),
        _ => None,
    }
}
