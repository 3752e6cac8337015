//! Look-ups above `UNION ALL` are made in its branches: what is looked up for rows of several scans is looked up for those of each.
use std::sync::Arc;

use datafusion::{
    common::Result,
    physical_plan::{ExecutionPlan, joins::HashJoinExec, replace_children_if_necessary, union::UnionExec},
};

use super::{input_of_each_row, looked_up};

/// The plan with each look-up above a union in all branches of that instead, together with what is between the two. Of a plan as
/// [`polybolos_dataflow::planning`] makes it, before anything is folded into its scans.
///
/// # Errors
/// Never in practice: a branch has the union's columns.
pub fn into_branches(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let children = plan.children().into_iter().map(|child| into_branches(child.clone())).collect::<Result<Vec<_>>>()?;
    let plan = if children.is_empty() { plan } else { replace_children_if_necessary(plan, children)? };
    let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return Ok(plan) };
    if looked_up(join.right())?.is_none() {
        return Ok(plan);
    }
    let Some(inputs) = branches(join.left())? else { return Ok(plan) };
    // A join that runs remembers what it has collected of its left side, which is another one here.
    let of = |input: Arc<dyn ExecutionPlan>| {
        join.builder().reset_state().with_new_children(vec![input, join.right().clone()])?.build_exec()
    };
    UnionExec::try_new(inputs.into_iter().map(of).collect::<Result<Vec<_>>>()?)
}

/// The inputs of the union that a plan makes its rows of one by one, each under all that the plan has above the union.
fn branches(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Vec<Arc<dyn ExecutionPlan>>>> {
    if let Some(union) = plan.downcast_ref::<UnionExec>() {
        let mut inputs = vec![];
        for input in union.inputs() {
            inputs.extend(branches(input)?.unwrap_or_else(|| vec![input.clone()]));
        }
        return Ok(Some(inputs));
    }
    let Some(input) = input_of_each_row(plan) else { return Ok(None) };
    let Some(inputs) = branches(input)? else { return Ok(None) };
    let above = inputs.into_iter().map(|input| replace_children_if_necessary(plan.clone(), vec![input]));
    Ok(Some(above.collect::<Result<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::super::{describe, of_plan, plans::planned};
    use super::*;
    use crate::record_scan::RecordScanExec;

    /// Topic by topic, what becomes of its records before the dataflow takes them.
    fn looked_up_in(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
        if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
            return vec![scan.spec().topic.clone()];
        }
        match of_plan(plan).unwrap() {
            Some((scan, stages)) => vec![format!("{}: {}", scan.spec().topic, describe(&stages))],
            None => plan.children().into_iter().flat_map(looked_up_in).collect(),
        }
    }

    #[test]
    fn each_branch_of_a_union_looks_up() {
        let plan =
            planned("SELECT a.id, c.name FROM (SELECT * FROM t UNION ALL SELECT * FROM u) AS a JOIN names AS c ON a.k = c.k");
        let looks_up = "looks up ks.names (inner) by [k]";
        assert_eq!(looked_up_in(&plan), [format!("t: {looks_up}"), format!("u: {looks_up}")]);
    }

    #[test]
    fn what_is_between_a_look_up_and_a_union_goes_with_it_and_so_does_the_next_look_up() {
        let plan = planned(
            "SELECT a.id, c.name, d.w FROM (SELECT id, k, unnest(make_array(b, id)) AS b FROM \
             (SELECT * FROM t UNION ALL (SELECT * FROM u UNION ALL SELECT id, k, b, s FROM t WHERE b > 1)) AS x) AS a \
             JOIN names AS c ON a.b = c.k LEFT JOIN places AS d ON a.k = d.k AND d.region = 'eu'",
        );
        let looks_up = "unnests; looks up ks.names (inner) by [k]; looks up ks.places (left) by [region, k]";
        assert_eq!(looked_up_in(&plan), [format!("t: {looks_up}"), format!("u: {looks_up}"), format!("t: {looks_up}")]);
    }

    #[test]
    fn a_union_of_what_was_looked_up_stays() {
        let looks_up = "SELECT a.id, c.name FROM t AS a JOIN names AS c ON a.k = c.k";
        let plan = planned(&format!("{looks_up} UNION ALL SELECT id, s FROM u"));
        assert_eq!(looked_up_in(&plan), ["t: looks up ks.names (inner) by [k]", "u"]);
    }
}
