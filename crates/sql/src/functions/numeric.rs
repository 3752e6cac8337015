//! Functions that are another of DataFusion's under Flink's name: planning replaces them, so they never run.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, FieldRef, TimeUnit},
    common::{Result, exec_err, plan_err},
    functions::datetime::{date_part, expr_fn::now},
    logical_expr::{
        ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        binary::BinaryTypeCoercer,
        cast, lit,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

fn not_replaced(name: &str) -> Result<ColumnarValue> {
    exec_err!("{name}() is replaced when a plan is optimised; optimise the plan first")
}

/// `hour(time)` and its like: `date_part` as BIGINT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    name: &'static str,
    part: &'static str,
    /// Added: Flink's Sunday is 1, DataFusion's 0.
    shift: i64,
    signature: Signature,
}

const DATE_PARTS: [(&str, &str, i64); 10] = [
    ("year", "year", 0),
    ("quarter", "quarter", 0),
    ("month", "month", 0),
    ("week", "week", 0),
    ("dayofyear", "doy", 0),
    ("dayofmonth", "day", 0),
    ("dayofweek", "dow", 1),
    ("hour", "hour", 0),
    ("minute", "minute", 0),
    ("second", "second", 0),
];

pub(super) fn date_parts() -> Vec<Arc<ScalarUDF>> {
    let function = |(name, part, shift)| DatePart { name, part, shift, signature: Signature::user_defined(Volatility::Immutable) };
    DATE_PARTS.into_iter().map(|part| Arc::new(ScalarUDF::new_from_impl(function(part)))).collect()
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [time @ (DataType::Timestamp(..) | DataType::Date32 | DataType::Time32(_) | DataType::Time64(_))] => {
                Ok(vec![time.clone()])
            }
            [DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null] => {
                Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, None)])
            }
            _ => plan_err!("{}() takes a date, a time or a timestamp", self.name),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Ok([time]) = <[Expr; 1]>::try_from(arguments) else { return plan_err!("{}() takes one argument", self.name) };
        let part = cast(date_part().call(vec![lit(self.part), time]), DataType::Int64);
        Ok(ExprSimplifyResult::Simplified(if self.shift == 0 { part } else { part + lit(self.shift) }))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_replaced(self.name)
    }
}

/// `mod(a, b)`: `a % b`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Modulo {
    signature: Signature,
}

impl Modulo {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Modulo {
    fn name(&self) -> &str {
        "mod"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = arguments else { return plan_err!("mod() takes two numbers") };
        let (left, right) = BinaryTypeCoercer::new(left, &Operator::Modulo, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        BinaryTypeCoercer::new(&arguments[0], &Operator::Modulo, &arguments[1]).get_result_type()
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Ok([left, right]) = <[Expr; 2]>::try_from(arguments) else { return plan_err!("mod() takes two numbers") };
        Ok(ExprSimplifyResult::Simplified(left % right))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_replaced("mod")
    }
}

pub(crate) const NEGATIVE: &str = "negative";

/// `negative(x)`: `-x`, also of what DataFusion counts without a sign.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Negative {
    signature: Signature,
}

impl Negative {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Negative {
    fn name(&self) -> &str {
        NEGATIVE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [number] if number.is_unsigned_integer() => Ok(vec![DataType::Int64]),
            [other @ (DataType::Null | DataType::Interval(_) | DataType::Timestamp(..))] => Ok(vec![other.clone()]),
            [number] if number.is_numeric() => Ok(vec![number.clone()]),
            _ => plan_err!("{NEGATIVE}() takes one number"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(arguments.arg_fields[0].clone())
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match arguments.into_iter().next() {
            Some(number) => Ok(ExprSimplifyResult::Simplified(Expr::Negative(Box::new(number)))),
            None => plan_err!("{NEGATIVE}() takes one number"),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_replaced(NEGATIVE)
    }
}

pub(crate) const NAMED_CAST: &str = "named_cast";

/// `named_cast(CAST(a AS t), 't')`: the cast, under a name that is not that of `a`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NamedCast {
    signature: Signature,
}

impl NamedCast {
    pub fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for NamedCast {
    fn name(&self) -> &str {
        NAMED_CAST
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match arguments.into_iter().next() {
            Some(cast) => Ok(ExprSimplifyResult::Simplified(cast)),
            None => plan_err!("{NAMED_CAST} takes a cast"),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_replaced(NAMED_CAST)
    }
}

/// `proctime()` outside jobs: `now()`. In jobs it is a reading of the epoch's clock.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ProcTime {
    signature: Signature,
}

impl ProcTime {
    pub fn new() -> Self {
        Self { signature: Signature::nullary(Volatility::Stable) }
    }
}

impl ScalarUDFImpl for ProcTime {
    fn name(&self) -> &str {
        "proctime"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())))
    }

    fn simplify(&self, _: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        Ok(ExprSimplifyResult::Simplified(cast(now(), micros)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_replaced("proctime")
    }
}
