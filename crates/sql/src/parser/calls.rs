//! What stands after the arguments of an aggregate or a window function, or among them: DataFusion passes over it where the function is
//! neither.
use datafusion::sql::sqlparser::ast::{DuplicateTreatment, Function, FunctionArgumentClause, FunctionArguments, JsonNullClause};

use super::json_clauses::ABSENT;

/// The first such clause of a call.
pub(crate) fn clause_of(function: &Function) -> Option<&'static str> {
    let list = match &function.args {
        FunctionArguments::List(list) => Some(list),
        _ => None,
    };
    let clause = list.and_then(|list| list.clauses.first()).map(|clause| match clause {
        FunctionArgumentClause::OrderBy(_) => "ORDER BY",
        FunctionArgumentClause::IgnoreOrRespectNulls(_) => "IGNORE NULLS or RESPECT NULLS",
        FunctionArgumentClause::JsonNullClause(_) => "NULL ON NULL or ABSENT ON NULL",
        FunctionArgumentClause::JsonReturningClause(_) => "RETURNING",
        _ => "clause after its arguments",
    });
    let others = [
        ("DISTINCT", list.is_some_and(|list| list.duplicate_treatment == Some(DuplicateTreatment::Distinct))),
        ("FILTER", function.filter.is_some()),
        ("OVER", function.over.is_some()),
        ("WITHIN GROUP", !function.within_group.is_empty()),
        ("IGNORE NULLS or RESPECT NULLS", function.null_treatment.is_some()),
        ("second list of arguments", !matches!(function.parameters, FunctionArguments::None)),
    ];
    others.into_iter().find_map(|(clause, is_there)| is_there.then_some(clause)).or(clause)
}

/// What is said of a clause that its function does not take.
pub(crate) fn takes_no(function: &str, clause: &str) -> String {
    let remedy = match clause {
        "FILTER" => format!(", or write CASE WHEN condition THEN {function}(…) END"),
        _ => String::new(),
    };
    format!("{function} is computed row by row and takes no {clause}; leave it out{remedy}")
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
