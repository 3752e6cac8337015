//! DataFusion's aggregates whose answer depends on the order or the magnitude of what comes, so that it does not. `min` and `max` of floats: NaN is greater than
//! all else, as in PostgreSQL, and infinities count. `sum` and `avg` of floats over a frame that slides: see [`super::sliding`]. `sum` of DECIMALs: see [`super::decimal_sum`]; `avg` of them: [`super::decimal_average`].
//! `percentile_cont`: see [`super::percentile`].
//! `corr`: by means, not by sums of products, which have no digits left where values are large, as times are.
//! `string_agg` sorts what it is given by itself, so that several may stand in one query that have other orders.
//! `bit_xor` of distinct values: not as groups at once, which takes those that come twice for two.
use std::{fmt::Debug, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, ArrowPrimitiveType, AsArray},
        datatypes::{DataType, FieldRef, Float32Type, Float64Type},
    },
    common::{Result, ScalarValue},
    functions_aggregate::{
        average::avg_udaf,
        bit_and_or_xor::bit_xor_udaf,
        correlation::corr_udaf,
        min_max::{max_udaf, min_udaf},
        percentile_cont::percentile_cont_udaf,
        string_agg::string_agg_udaf,
        sum::sum_udaf,
    },
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, Operator, ReversedUDAF,
        SetMonotonicity, Signature, StatisticsArgs,
        expr::AggregateFunction,
        function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::{
    decimal_average::{Average, too_large},
    decimal_sum::{DecimalSum, DecimalSums, DistinctDecimalSum},
    percentile::Percentile,
    sliding::SlidingSum,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Min,
    Max,
    Corr,
    Sum,
    Avg,
    Percentile,
    Xor,
    Texts,
}

/// DataFusion's function in all but how groups are accumulated.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Refined {
    builtin: AggregateUDF,
    kind: Kind,
}

impl Refined {
    /// The type of a sum of DECIMALs.
    fn decimals(&self, arguments: &AccumulatorArgs<'_>) -> Option<DataType> {
        let data_type = arguments.return_field.data_type();
        let is_checked = self.kind == Kind::Sum && matches!(data_type, DataType::Decimal128(..));
        is_checked.then(|| data_type.clone())
    }

    /// What is said where an average of DECIMALs does not fit.
    fn average(&self, arguments: &AccumulatorArgs<'_>) -> Option<String> {
        if self.kind == Kind::Avg { too_large(arguments) } else { None }
    }

    /// DataFusion's says what is wrong with the share, and takes what is neither FLOAT nor DOUBLE.
    fn percentile(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match Percentile::new(&arguments) {
            Some(percentile) => Ok(Box::new(percentile)),
            None => self.builtin.accumulator(arguments),
        }
    }
}

pub(super) fn refined() -> [Arc<AggregateUDF>; 8] {
    let all = [
        (min_udaf(), Kind::Min),
        (max_udaf(), Kind::Max),
        (corr_udaf(), Kind::Corr),
        (sum_udaf(), Kind::Sum),
        (avg_udaf(), Kind::Avg),
        (percentile_cont_udaf(), Kind::Percentile),
        (bit_xor_udaf(), Kind::Xor),
        (string_agg_udaf(), Kind::Texts),
    ];
    all.map(|(builtin, kind)| Arc::new(AggregateUDF::new_from_impl(Refined { builtin: builtin.as_ref().clone(), kind })))
}

/// A float as it compares here.
trait Float: Copy + PartialOrd {
    const LEAST: Self;
    const GREATEST: Self;

    fn is_nan(self) -> bool;

    fn is_greater(self, other: Self) -> bool {
        self > other || self.is_nan() && !other.is_nan()
    }
}

macro_rules! float {
    ($type:ident) => {
        impl Float for $type {
            const LEAST: Self = $type::NEG_INFINITY;
            const GREATEST: Self = $type::NAN;

            fn is_nan(self) -> bool {
                self.is_nan()
            }
        }
    };
}

float!(f32);
float!(f64);

impl Kind {
    fn is_extreme(self) -> bool {
        matches!(self, Self::Min | Self::Max)
    }

    fn start<F: Float>(self) -> F {
        if self == Self::Max { F::LEAST } else { F::GREATEST }
    }

    fn keep<F: Float>(self, kept: &mut F, value: F) {
        let is_better = if self == Self::Max { value.is_greater(*kept) } else { kept.is_greater(value) };
        if is_better {
            *kept = value;
        }
    }

    fn of_groups<T: ArrowPrimitiveType + Send>(self, data_type: &DataType) -> Box<dyn GroupsAccumulator>
    where
        T::Native: Float,
    {
        let keep = move |kept: &mut T::Native, value: T::Native| self.keep(kept, value);
        Box::new(PrimitiveGroupsAccumulator::<T, _>::new(data_type, keep).with_starting_value(self.start()))
    }
}

/// Of one group.
#[derive(Debug)]
struct OfFloats<T: ArrowPrimitiveType> {
    kind: Kind,
    kept: Option<T::Native>,
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for OfFloats<T>
where
    T::Native: Float,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            self.kind.keep(self.kept.get_or_insert_with(|| self.kind.start()), value);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>(self.kept, &T::DATA_TYPE)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

impl AggregateUDFImpl for Refined {
    fn name(&self) -> &str {
        self.builtin.name()
    }

    fn aliases(&self) -> &[String] {
        self.builtin.aliases()
    }

    fn signature(&self) -> &Signature {
        self.builtin.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if let Some(data_type) = self.decimals(&arguments) {
            return Ok(match arguments.is_distinct {
                true => Box::new(DistinctDecimalSum::new(data_type)),
                false => Box::new(DecimalSum::new(data_type)),
            });
        }
        if let Some(message) = self.average(&arguments) {
            return Ok(Box::new(Average::new(self.builtin.accumulator(arguments)?, message)));
        }
        let kind = self.kind;
        if kind == Kind::Percentile {
            return self.percentile(arguments);
        }
        Ok(match arguments.return_field.data_type() {
            _ if !kind.is_extreme() => self.builtin.accumulator(arguments)?,
            DataType::Float32 => Box::new(OfFloats::<Float32Type> { kind, kept: None }),
            DataType::Float64 => Box::new(OfFloats::<Float64Type> { kind, kept: None }),
            _ => self.builtin.accumulator(arguments)?,
        })
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.builtin.state_fields(arguments)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        let is_single = match self.kind {
            Kind::Corr | Kind::Percentile => true,
            Kind::Xor => arguments.is_distinct,
            Kind::Min | Kind::Max | Kind::Sum | Kind::Avg | Kind::Texts => false,
        };
        !is_single && self.builtin.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if let Some(data_type) = self.decimals(&arguments) {
            return Ok(Box::new(DecimalSums::new(&data_type)));
        }
        if let Some(message) = self.average(&arguments) {
            return Ok(Box::new(Average::new(self.builtin.create_groups_accumulator(arguments)?, message)));
        }
        Ok(match arguments.return_field.data_type() {
            _ if !self.kind.is_extreme() => self.builtin.create_groups_accumulator(arguments)?,
            DataType::Float32 => self.kind.of_groups::<Float32Type>(&DataType::Float32),
            DataType::Float64 => self.kind.of_groups::<Float64Type>(&DataType::Float64),
            _ => self.builtin.create_groups_accumulator(arguments)?,
        })
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if let Some(data_type) = self.decimals(&arguments).filter(|_| !arguments.is_distinct) {
            return Ok(Box::new(DecimalSum::new(data_type)));
        }
        if let Some(message) = self.average(&arguments) {
            return Ok(Box::new(Average::new(self.builtin.create_sliding_accumulator(arguments)?, message)));
        }
        if self.kind == Kind::Percentile {
            return self.percentile(arguments);
        }
        let is_sum = matches!(self.kind, Kind::Sum | Kind::Avg) && !arguments.is_distinct;
        if is_sum && arguments.expr_fields.iter().all(|field| *field.data_type() == DataType::Float64) {
            return Ok(Box::new(SlidingSum::new(self.kind == Kind::Avg)));
        }
        self.builtin.create_sliding_accumulator(arguments)
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        // DataFusion's makes its own `min` and `max` of the first share and of the last.
        if self.kind == Kind::Percentile { None } else { self.builtin.simplify() }
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        operator: Operator,
        literal: &Expr,
        is_left: bool,
    ) -> Result<Option<Expr>> {
        self.builtin.simplify_expr_op_literal(function, argument, operator, literal, is_left)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        if self.kind == Kind::Texts { AggregateOrderSensitivity::Beneficial } else { self.builtin.order_sensitivity() }
    }

    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok((self.kind == Kind::Texts).then_some(self as Arc<dyn AggregateUDFImpl>))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        if self.kind == Kind::Texts { ReversedUDAF::NotSupported } else { self.builtin.reverse_udf() }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.builtin.coerce_types(types)
    }

    fn supports_within_group_clause(&self) -> bool {
        self.builtin.supports_within_group_clause()
    }

    fn is_descending(&self) -> Option<bool> {
        self.builtin.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        self.builtin.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.builtin.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.builtin.documentation()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::array::{Array, RecordBatch},
        execution::FunctionRegistry,
        prelude::SessionContext,
    };

    use super::*;

    async fn answer(sql: &str) -> Result<Vec<RecordBatch>> {
        let mut state = SessionContext::new().state();
        refined().into_iter().for_each(|function| drop(state.register_udaf(function).expect("registers")));
        SessionContext::new_with_state(state).sql(sql).await.expect("plans").collect().await
    }

    async fn numbers(sql: &str) -> Vec<f64> {
        let batches = answer(sql).await.expect("runs");
        batches[0].columns().iter().map(|column| column.as_primitive::<Float64Type>().value(0)).collect()
    }

    #[tokio::test]
    async fn an_average_that_does_not_fit_says_of_what_it_is() {
        let values = "(VALUES (1, '99999999999999999999999999999999999999')) AS t (g, x)";
        let from = format!("FROM (SELECT g, CAST(x AS DECIMAL(38, 0)) AS x FROM {values}) AS t");
        for selected in [
            format!("avg(x) {from}"),
            format!("avg(x) {from} GROUP BY g"),
            format!("avg(x) OVER (ORDER BY g ROWS 1 PRECEDING) {from}"),
        ] {
            let error = answer(&format!("SELECT {selected}")).await.expect_err(&selected).to_string();
            assert!(error.contains("avg(t.x)") && error.contains("does not fit into DECIMAL(38, 4)"), "{selected}: {error}");
        }
    }

    #[tokio::test]
    async fn least_and_greatest_do_not_depend_on_the_order() {
        for values in ["(1, -5.0), (1, 'NaN'), (1, 2.0), (1, '-Infinity')", "(1, '-Infinity'), (1, 2.0), (1, 'NaN'), (1, -5.0)"] {
            let from = format!("FROM (SELECT g, CAST(x AS DOUBLE) AS x FROM (VALUES {values}) AS t (g, x))");
            for group in ["", " GROUP BY g"] {
                let found = numbers(&format!("SELECT min(x), max(x), max(CASE WHEN x < -6 THEN x END) {from}{group}")).await;
                assert!(
                    found[0] == f64::NEG_INFINITY && found[1].is_nan() && found[2] == f64::NEG_INFINITY,
                    "{found:?}{group} of {values}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_value_that_leaves_a_frame_leaves_no_trace() {
        for (values, expected) in [
            ("(1, 1.0), (2, 'Infinity'), (3, '-Infinity'), (4, 'NaN'), (5, 3.0), (6, 5.0)", [8.0, 4.0]),
            ("(1, 1.5), (2, 1e17), (3, 2.5), (4, 3.5)", [6.0, 3.0]),
            ("(1, 'Infinity'), (2, NULL), (3, 2.0)", [2.0, 2.0]),
        ] {
            let frame = "OVER (ORDER BY id ROWS 1 PRECEDING)";
            let from = format!("FROM (SELECT id, CAST(x AS DOUBLE) AS x FROM (VALUES {values}) AS t (id, x))");
            let found =
                numbers(&format!("SELECT s, a FROM (SELECT id, sum(x) {frame} AS s, avg(x) {frame} AS a {from}) ORDER BY id DESC"))
                    .await;
            assert_eq!(found, expected, "{values}");
        }
    }

    #[tokio::test]
    async fn a_sum_of_decimals_is_right_or_an_error() {
        for (digit, rows, fits) in [(2, 4, true), (3, 4, false), (9, 2, false), (9, 4, false), (-9, 4, false)] {
            let values = vec![format!("(1, '{digit}{}')", "0".repeat(37)); rows].join(", ");
            let from = format!("FROM (SELECT g, CAST(x AS DECIMAL(38, 0)) AS x FROM (VALUES {values}) AS t (g, x))");
            for group in ["", " GROUP BY g"] {
                match answer(&format!("SELECT sum(x) {from}{group}")).await {
                    Ok(_) if fits => {
                        let sums = numbers(&format!("SELECT CAST(sum(x) AS DOUBLE) {from}{group}")).await;
                        assert!((sums[0] - 8e37).abs() < 1e23, "{sums:?}{group}");
                    }
                    Err(error) if !fits => assert!(error.to_string().contains("does not fit into DECIMAL(38, 0)"), "{error}"),
                    other => panic!("{rows} times {digit}{group}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_sum_of_different_decimals_is_right_or_an_error() {
        let from = |last: &str| {
            let values = [last, "9", "9", "2"].map(|digit| format!("(1, '{digit}{}')", "0".repeat(37))).join(", ");
            format!("FROM (SELECT g, CAST(x AS DECIMAL(38, 0)) AS x FROM (VALUES {values}, (1, NULL)) AS t (g, x))")
        };
        for group in ["", " GROUP BY g"] {
            let found =
                numbers(&format!("SELECT CAST(sum(DISTINCT x) AS DOUBLE), CAST(count(x) AS DOUBLE) {}{group}", from("-9"))).await;
            assert!((found[0] - 2e37).abs() < 1e23, "{found:?}{group}");
            let error =
                answer(&format!("SELECT sum(DISTINCT x), count(x) {}{group}", from("1"))).await.expect_err("too many digits");
            assert!(error.to_string().contains("does not fit into DECIMAL(38, 0)"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_sum_of_decimals_in_a_frame_is_right_or_an_error() {
        let values = |digits: &[i32]| -> String {
            let row = |(id, digit): (usize, &i32)| format!("({id}, '{digit}{}')", "0".repeat(37));
            digits.iter().enumerate().map(row).collect::<Vec<_>>().join(", ")
        };
        for (frame, digits, expected) in [
            ("ROWS 2 PRECEDING", [9, -9, 9, -9, 9], Some(9e37)),
            // What comes into the first frame is beyond 128 bits in between.
            ("ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING", [9, 9, -9, -9, 9], Some(-9e37)),
            ("ROWS 1 PRECEDING", [1, 9, 9, 1, 1], None),
            ("ROWS 3 PRECEDING", [9, 9, 9, 9, 0], None),
            ("ROWS BETWEEN 3 PRECEDING AND UNBOUNDED FOLLOWING", [9, 9, 9, 9, 0], None),
            ("ROWS UNBOUNDED PRECEDING", [9, 9, 9, 9, 0], None),
            ("ROWS UNBOUNDED PRECEDING", [9, -9, 9, -8, 0], Some(1e37)),
            ("ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING", [9, 9, -9, -8, 0], Some(1e37)),
        ] {
            let from = format!("FROM (SELECT id, CAST(x AS DECIMAL(38, 0)) AS x FROM (VALUES {}) AS t (id, x))", values(&digits));
            let sql = format!(
                "SELECT CAST(s AS DOUBLE) FROM (SELECT id, sum(x) OVER (ORDER BY id {frame}) AS s {from}) ORDER BY id DESC"
            );
            match (answer(&sql).await, expected) {
                (Ok(_), Some(expected)) => {
                    let found = numbers(&sql).await;
                    assert!((found[0] - expected).abs() < 1e23, "{frame} of {digits:?}: {found:?}");
                }
                (Err(error), None) => assert!(error.to_string().contains("does not fit into DECIMAL(38, 0)"), "{error}"),
                (other, _) => panic!("{frame} of {digits:?}: {other:?}"),
            }
        }
        let values = "(1, '1'), (2, NULL), (3, NULL)";
        let from = format!("FROM (SELECT id, CAST(x AS DECIMAL(5, 1)) AS x FROM (VALUES {values}) AS t (id, x))");
        let sql = format!("SELECT s FROM (SELECT id, sum(x) OVER (ORDER BY id ROWS 1 PRECEDING) AS s {from}) ORDER BY id DESC");
        assert!(answer(&sql).await.expect("runs")[0].column(0).is_null(0), "of nothing there is no sum");
    }

    #[tokio::test]
    async fn a_percentile_is_as_exact_as_floats() {
        let from = "FROM (VALUES (1, 0, 1.5), (1, 1000000000, 2.5), (1, NULL, NULL)) AS t (g, x, y)";
        for group in ["", " GROUP BY g"] {
            let of = |share: &str, order: &str| format!("CAST(percentile_cont({share}) WITHIN GROUP (ORDER BY {order}) AS DOUBLE)");
            let selected = [
                of("0.123456789", "x"),
                of("0.123456789", "x DESC"),
                of("0.25", "CAST(y AS REAL)"),
                "CAST(quantile_cont(0.000000001) WITHIN GROUP (ORDER BY x) AS DOUBLE)".to_owned(),
            ];
            let found = numbers(&format!("SELECT {} {from}{group}", selected.join(", "))).await;
            assert_eq!(found, [123_456_789.0, 876_543_211.0, 1.75, 1.0], "{group}");
        }
        // DataFusion's own `max` finds no infinity below zero.
        let last = "percentile_cont(1.0) WITHIN GROUP (ORDER BY CAST(x AS DOUBLE))";
        let found = numbers(&format!("SELECT {last} FROM (VALUES (1, '-Infinity')) AS t (g, x) GROUP BY g")).await;
        assert_eq!(found, [f64::NEG_INFINITY]);
        let refused = answer(&format!("SELECT percentile_cont(1.5) WITHIN GROUP (ORDER BY x) {from}")).await;
        assert!(refused.expect_err("no share").to_string().contains("between 0.0 and 1.0"));
    }

    #[tokio::test]
    async fn texts_are_joined_in_several_orders() {
        let values = "(1, 'b', 1), (1, 'a', 2), (1, 'c', 3), (1, NULL, 4)";
        let joined = |order: &str| format!("CAST(string_agg(x, ',' ORDER BY {order}) AS VARCHAR)");
        for group in ["", " GROUP BY g"] {
            let selected = ["x", "y", "x DESC", "y DESC"].map(joined).join(" || ' ' || ");
            let sql = format!("SELECT arrow_cast({selected}, 'Utf8') FROM (VALUES {values}) AS t (g, x, y){group}");
            let batches = answer(&sql).await.expect("several orders");
            assert_eq!(batches[0].column(0).as_string::<i32>().value(0), "a,b,c b,a,c c,b,a c,a,b", "{group}");
        }
    }

    /// Beside another DISTINCT, as DataFusion makes groups of the values of one alone.
    #[tokio::test]
    async fn distinct_values_are_one_to_exclusive_or() {
        let values = "(1, 5, 1), (1, 5, 2), (1, 3, 2), (1, NULL, 3)";
        for group in ["", " GROUP BY g"] {
            let selected = "CAST(bit_xor(DISTINCT x) AS DOUBLE), CAST(bit_xor(x) AS DOUBLE), CAST(sum(DISTINCT y) AS DOUBLE)";
            let found = numbers(&format!("SELECT {selected} FROM (VALUES {values}) AS t (g, x, y){group}")).await;
            assert_eq!(found, [6.0, 3.0, 6.0], "{group}");
        }
    }

    #[tokio::test]
    async fn large_values_correlate_as_small_ones_do() {
        let values = "(1, 1.0, 1700000000001.0), (1, 2.0, 1700000000002.0), (1, 4.0, 1700000000003.0)";
        let found = numbers(&format!("SELECT corr(x, y) FROM (VALUES {values}) AS t (g, x, y) GROUP BY g")).await;
        assert!((found[0] - 0.981_980_506).abs() < 1e-6, "{found:?}");
    }
}
