//! Names the columns of an answer as the query has them: above the query's plan, so that nothing in the query can mean these names.
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};

use crate::{error::SqlError, statement::Heading};

/// The plan with the names that its headings want. One that another column has is followed by its place.
pub(super) fn name(plan: LogicalPlan, headings: &[Heading]) -> Result<LogicalPlan, SqlError> {
    let columns = plan.schema().columns();
    // To DataFusion the columns `t.a` and `"t.a"` have one name.
    let full: Vec<String> = columns.iter().map(Column::flat_name).collect();
    let given: Vec<String> = columns.into_iter().map(|column| column.name).collect();
    let mut names = given.clone();
    for (place, wanted) in placed(headings, given.len()) {
        if wanted.first() == Some(&given[place]) {
            continue;
        }
        let is_free =
            |name: &String| (0..names.len()).all(|other| other == place || (names[other] != *name && full[other] != *name));
        let twin = wanted.last().map(|written| format!("{written} ({})", place + 1));
        if let Some(name) = wanted.iter().cloned().chain(twin).find(is_free) {
            names[place] = name;
        }
    }
    if names == given { Ok(plan) } else { renamed(plan, &names) }
}

/// The plan with columns of these names. Those that have theirs keep the table that they are of, too.
pub(super) fn renamed(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan, SqlError> {
    let columns = names.iter().enumerate().map(|(index, name)| {
        let (qualifier, field) = plan.schema().qualified_field(index);
        let column = Expr::Column(Column::from((qualifier, field)));
        if field.name() == name { column } else { column.alias(name) }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// The wanted names, with the places of their columns. How many columns a wildcard brings is known where it is the only one; what
/// stands between two has no place.
fn placed(headings: &[Heading], columns: usize) -> Vec<(usize, &[String])> {
    let is_wildcard = |heading: &Heading| *heading == Heading::Several;
    let before = headings.iter().position(is_wildcard).unwrap_or(headings.len());
    let behind = headings.iter().rev().position(is_wildcard).unwrap_or(0);
    let has_wildcard = before < headings.len();
    // The fields of a ROW that `unnest` takes apart are columns, too.
    let fits = if has_wildcard { before + behind <= columns } else { before == columns };
    if !fits {
        return Vec::new();
    }
    let front = headings[..before].iter().enumerate();
    let end = (columns - behind..).zip(&headings[headings.len() - behind..]);
    let wanted = front.chain(end).filter_map(|(place, heading)| match heading {
        Heading::Wanted(names) => Some((place, names.as_slice())),
        Heading::Given | Heading::Several => None,
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_both_sides_of_wildcards() {
        let wanted = |name: &str| Heading::Wanted(vec![name.to_owned()]);
        let places = |headings: &[Heading], columns: usize| {
            let placed = placed(headings, columns).into_iter().map(|(place, names)| format!("{place}{}", names[0]));
            placed.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(places(&[wanted("a"), Heading::Given, wanted("c")], 3), "0a 2c");
        assert_eq!(places(&[wanted("a"), wanted("b")], 3), "");
        let around = [wanted("a"), Heading::Several, wanted("b")];
        assert_eq!(places(&around, 5), "0a 4b");
        assert_eq!(places(&around, 2), "0a 1b");
        assert_eq!(places(&around, 1), "");
        assert_eq!(places(&[Heading::Several, wanted("a"), Heading::Several, wanted("b")], 9), "8b");
        assert_eq!(places(&[], 2), "");
    }
}
