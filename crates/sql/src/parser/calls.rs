//! What stands after the arguments of an aggregate or a window function, or among them: DataFusion passes over it where the function is
//! neither.
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Function, FunctionArgumentClause, FunctionArgumentList, FunctionArguments, JsonNullClause,
};

use super::json_clauses::ABSENT;

/// Whether a call is of distinct values.
pub(crate) fn is_distinct(list: &FunctionArgumentList) -> bool {
    list.duplicate_treatment == Some(DuplicateTreatment::Distinct)
}

fn list_of(function: &Function) -> Option<&FunctionArgumentList> {
    match &function.args {
        FunctionArguments::List(list) => Some(list),
        _ => None,
    }
}

/// The first such clause of a call.
pub(crate) fn clause_of(function: &Function) -> Option<&'static str> {
    let of_rows = [
        ("DISTINCT", list_of(function).is_some_and(is_distinct)),
        ("FILTER", function.filter.is_some()),
        ("OVER", function.over.is_some()),
    ];
    first_of(of_rows).or_else(|| clause_beside_rows(function))
}

/// The same without those that say which rows the call is of.
pub(crate) fn clause_beside_rows(function: &Function) -> Option<&'static str> {
    let list = list_of(function);
    let clause = list.and_then(|list| list.clauses.first()).map(|clause| match clause {
        FunctionArgumentClause::OrderBy(_) => "ORDER BY",
        FunctionArgumentClause::IgnoreOrRespectNulls(_) => "IGNORE NULLS or RESPECT NULLS",
        FunctionArgumentClause::JsonNullClause(_) => "NULL ON NULL or ABSENT ON NULL",
        FunctionArgumentClause::JsonReturningClause(_) => "RETURNING",
        _ => "clause after its arguments",
    });
    let others = [
        ("WITHIN GROUP", !function.within_group.is_empty()),
        ("IGNORE NULLS or RESPECT NULLS", function.null_treatment.is_some()),
        ("second list of arguments", !matches!(function.parameters, FunctionArguments::None)),
    ];
    first_of(others).or(clause)
}

fn first_of<const N: usize>(clauses: [(&'static str, bool); N]) -> Option<&'static str> {
    clauses.into_iter().find_map(|(clause, is_there)| is_there.then_some(clause))
}

/// What is said of a clause that its function does not take.
pub(crate) fn takes_no(function: &str, clause: &str) -> String {
    let remedy = match clause {
        "FILTER" => format!(", or write CASE WHEN condition THEN {function}(…) END"),
        _ => String::new(),
    };
    format!("{function} is computed row by row and takes no {clause}; leave it out{remedy}")
}

/// Takes the clause on NULLs of an aggregate that makes JSON: whether they are members.
pub(super) fn take_nulls(list: &mut FunctionArgumentList) -> Option<bool> {
    let of = |clause: &FunctionArgumentClause| match clause {
        FunctionArgumentClause::JsonNullClause(nulls) => Some(matches!(nulls, JsonNullClause::NullOnNull)),
        _ => None,
    };
    let nulls = list.clauses.iter().find_map(of);
    list.clauses.retain(|clause| of(clause).is_none());
    nulls
}

/// Takes away what is so anyway: NULLs are members of what functions make as JSON.
///
/// # Errors
/// When they are to be left out.
pub(super) fn keep_nulls(function: &mut Function) -> Result<(), String> {
    let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
    let is_absent =
        |clause: &FunctionArgumentClause| matches!(clause, FunctionArgumentClause::JsonNullClause(JsonNullClause::AbsentOnNull));
    if list.clauses.iter().any(is_absent) {
        return Err(ABSENT.to_owned());
    }
    list.clauses.retain(|clause| !matches!(clause, FunctionArgumentClause::JsonNullClause(_)));
    Ok(())
}
