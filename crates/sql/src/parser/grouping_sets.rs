//! ROLLUP and CUBE over tuples, `ROLLUP ((a, b), c)`, and of a part twice, `CUBE (a, a)`, which DataFusion does not plan, as the grouping sets that they stand for.
use datafusion::sql::sqlparser::ast::Expr;

/// Of each more there are twice as many sets.
const MAX_CUBED: usize = 12;

/// Whether DataFusion knows no such parts.
pub(super) fn are_unknown(parts: &[Vec<Expr>]) -> bool {
    parts.iter().enumerate().any(|(place, part)| part.len() != 1 || parts[..place].contains(part))
}

/// All parts, then without the last, and so on.
pub(super) fn of_rollup(parts: &[Vec<Expr>]) -> Vec<Vec<Expr>> {
    (0..=parts.len()).rev().map(|length| without_twins(parts[..length].concat())).collect()
}

fn without_twins(set: Vec<Expr>) -> Vec<Expr> {
    let mut kept = Vec::with_capacity(set.len());
    for part in set {
        if !kept.contains(&part) {
            kept.push(part);
        }
    }
    kept
}

/// Each choice of the parts.
pub(super) fn of_cube(parts: &[Vec<Expr>]) -> Result<Vec<Vec<Expr>>, String> {
    if parts.len() > MAX_CUBED {
        return Err(format!(
            "CUBE of more than {MAX_CUBED} parts is not supported; write the GROUPING SETS ((a, b), (a), …) that are meant"
        ));
    }
    let mut sets = vec![Vec::new()];
    for part in parts.iter().rev() {
        let with_it: Vec<Vec<Expr>> = sets.iter().map(|set| [part.as_slice(), set.as_slice()].concat()).collect();
        sets = [with_it, sets].concat();
    }
    Ok(sets.into_iter().map(without_twins).collect())
}

#[cfg(test)]
mod tests {
    use crate::{
        parser::parse,
        statement::{Statement, StatementKind},
    };

    #[test]
    fn tuples_are_grouped_by_together() {
        for (written, meant) in [
            ("ROLLUP ((a, b), c)", "GROUPING SETS ((a, b, c), (a, b), ())"),
            ("CUBE ((a, b), c)", "GROUPING SETS ((a, b, c), (a, b), (c), ())"),
            ("d, ROLLUP ((a, b))", "d, GROUPING SETS ((a, b), ())"),
            ("ROLLUP (a, b)", "ROLLUP (a, b)"),
            ("ROLLUP (a, b, a)", "GROUPING SETS ((a, b), (a, b), (a), ())"),
            ("CUBE (a, a)", "GROUPING SETS ((a), (a), (a), ())"),
            ("CUBE (())", "GROUPING SETS ((), ())"),
        ] {
            let sql = format!("SELECT count(*) FROM t GROUP BY {written}");
            let Statement { kind: StatementKind::Query(query), .. } = parse(&sql).unwrap().remove(0) else { panic!("{sql}") };
            assert_eq!(query.ast.to_string(), format!("SELECT count(*) FROM t GROUP BY {meant}"));
        }
        let error = parse(&format!("SELECT 1 FROM t GROUP BY CUBE ({})", vec!["(a, b)"; 13].join(", "))).unwrap_err();
        assert!(error.to_string().contains("GROUPING SETS ((a, b), (a), …)"), "{error}");
    }
}
