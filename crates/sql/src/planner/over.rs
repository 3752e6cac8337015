//! FILTER and IGNORE NULLS of functions with OVER, said in a way that travels: a physical plan as bytes has no room for either.
use datafusion::{
    common::{
        Result, not_impl_err,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition, expr::NullTreatment, expr_rewriter::NamePreserver, when},
};

use crate::functions;

/// Aggregates that pass over rows whose first argument is NULL, so that a filter can make it NULL.
const PASSES_OVER_NULL: [&str; 30] = [
    "approx_distinct",
    "approx_median",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];

/// The same plan with filters as CASE, and with functions that ignore NULLs by themselves.
pub(super) fn as_it_travels(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| {
        if !matches!(plan, LogicalPlan::Window(_)) {
            return Ok(Transformed::no(plan));
        }
        // A column keeps the name that it has.
        let names = NamePreserver::new_for_projection();
        plan.map_expressions(|expression| {
            let name = names.save(&expression);
            Ok(expression.transform_up(rewrite)?.update_data(|changed| name.restore(changed)))
        })
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn rewrite(expression: Expr) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut function) = expression else { return Ok(Transformed::no(expression)) };
    let mut changed = false;
    if let Some(filter) = function.params.filter.take() {
        let name = function.fun.name().to_owned();
        let Some(first) = function.params.args.first_mut().filter(|_| PASSES_OVER_NULL.contains(&name.as_str())) else {
            return not_impl_err!(
                "{name}(…) FILTER (WHERE …) OVER (…) is not supported in a job; filter the rows in a subquery, or write {name}(CASE WHEN … THEN … END) OVER (…)"
            );
        };
        *first = when(*filter, first.clone()).end()?;
        changed = true;
    }
    if function.params.null_treatment == Some(NullTreatment::IgnoreNulls)
        && let WindowFunctionDefinition::WindowUDF(window) = &function.fun
        && let Some(ignoring) = functions::ignoring(window)
    {
        function.fun = WindowFunctionDefinition::WindowUDF(ignoring);
        function.params.null_treatment = None;
        changed = true;
    }
    let expression = Expr::WindowFunction(function);
    Ok(if changed { Transformed::yes(expression) } else { Transformed::no(expression) })
}
