//! CASE expressions of a decoded plan, told once. The graph and the fingerprint of its state tell expressions by their `Debug` text, and DataFusion's text of
//! a CASE holds its parts twice, as written and as evaluated: with every level of nesting it is twice as long, and so is the time that it takes.
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::{DataType, Schema},
    },
    common::Result,
    logical_expr::ColumnarValue,
    physical_expr::expressions::CaseExpr,
    physical_plan::{ExecutionPlan, PhysicalExpr},
};
use datafusion_proto::{
    physical_plan::{
        DefaultPhysicalProtoConverter, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
    },
    protobuf::{PhysicalExprNode, PhysicalPlanNode},
};

/// A CASE, evaluated by DataFusion.
#[derive(Clone, Eq)]
struct Case {
    case: Arc<dyn PhysicalExpr>,
}

// By hand, as the compiler cannot derive them of a trait object.
impl PartialEq for Case {
    fn eq(&self, other: &Self) -> bool {
        self.case.eq(&other.case)
    }
}

impl Hash for Case {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.case.hash(state);
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(case) = self.case.downcast_ref::<CaseExpr>() else { return fmt::Debug::fmt(&self.case, f) };
        f.debug_struct("Case")
            .field("expr", &case.expr())
            .field("when_then", &case.when_then_expr())
            .field("else", &case.else_expr())
            .finish()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.case)
    }
}

impl PhysicalExpr for Case {
    fn data_type(&self, input: &Schema) -> Result<DataType> {
        self.case.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> Result<bool> {
        self.case.nullable(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.case.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.case.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(told_once(Arc::clone(&self.case).with_new_children(children)?))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.case.fmt_sql(f)
    }
}

fn told_once(expression: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    if expression.is::<CaseExpr>() { Arc::new(Case { case: expression }) } else { expression }
}

/// Reads plans and expressions as DataFusion does, with every CASE told once.
#[derive(Debug)]
pub struct CasesToldOnce;

impl PhysicalProtoConverterExtension for CasesToldOnce {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.default_proto_to_execution_plan(proto, context)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        DefaultPhysicalProtoConverter {}.execution_plan_to_proto(plan, codec)
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        input: &Schema,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(told_once(self.default_proto_to_physical_expr(proto, input, context)?))
    }

    fn physical_expr_to_proto(
        &self,
        expression: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        DefaultPhysicalProtoConverter {}.physical_expr_to_proto(expression, codec)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{ArrayRef, StringArray},
            datatypes::Field,
        },
        execution::TaskContext,
        logical_expr::Operator,
        physical_expr::expressions::{binary, case, col, lit},
    };
    use datafusion_proto::physical_plan::to_proto::serialize_physical_expr;
    use prost::Message;

    use super::*;
    use crate::codec::{PolybolosCodec, unreadable};

    fn schema() -> Schema {
        Schema::new(vec![Field::new("ts", DataType::Int64, true), Field::new("uid", DataType::Utf8, true)])
    }

    /// `CASE WHEN uid = 'q1' THEN 1 ELSE CASE WHEN uid = 'q0' THEN 0 ELSE -1 END END`, so many levels deep.
    fn nested(levels: i64) -> Arc<dyn PhysicalExpr> {
        let schema = schema();
        (0..levels).fold(lit(-1_i64), |inner, level| {
            let is_it =
                binary(col("uid", &schema).expect("column"), Operator::Eq, lit(format!("q{level}")), &schema).expect("comparison");
            case(None, vec![(is_it, lit(level))], Some(inner)).expect("case")
        })
    }

    fn encoded(expression: &Arc<dyn PhysicalExpr>) -> Vec<u8> {
        serialize_physical_expr(expression, &PolybolosCodec::default()).expect("expressions travel").encode_to_vec()
    }

    fn decoded(expression: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        let node = PhysicalExprNode::decode(encoded(expression).as_slice()).expect("what travels is read");
        let (context, codec) = (TaskContext::default(), PolybolosCodec::default());
        let context = PhysicalPlanDecodeContext::new(&context, &codec);
        CasesToldOnce.proto_to_physical_expr(&node, &schema(), &context).expect("an expression")
    }

    #[test]
    fn a_level_more_adds_to_the_text_and_does_not_double_it() {
        let told = |levels: i64| format!("{:?}", decoded(&nested(levels))).len();
        let (one, half, all) = (told(9) - told(8), told(9), told(18));
        assert!(all <= half + 10 * one, "a level takes {one} bytes, nine take {half}, and eighteen {all}");
        // A plan that is written anew, with other columns, keeps it so.
        let case = decoded(&nested(9));
        let children: Vec<_> = case.children().into_iter().cloned().collect();
        let again = Arc::clone(&case).with_new_children(children).expect("the same children");
        assert_eq!(format!("{again:?}"), format!("{case:?}"));
        assert_eq!(&again, &case);
    }

    #[test]
    fn expressions_that_differ_are_told_apart() {
        let mut told: Vec<String> = [nested(3), nested(4), case_of(None), case_of(Some(lit(2_i64)))]
            .iter()
            .map(|expression| format!("{:?}", decoded(expression)))
            .collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 4, "{told:#?}");
    }

    fn case_of(otherwise: Option<Arc<dyn PhysicalExpr>>) -> Arc<dyn PhysicalExpr> {
        let uid = col("uid", &schema()).expect("column");
        case(Some(uid), vec![(lit("a"), lit(1_i64))], otherwise).expect("case")
    }

    #[test]
    fn a_case_gives_what_datafusion_says() {
        let uids: ArrayRef = Arc::new(StringArray::from(vec![Some("q0"), Some("q5"), None, Some("other")]));
        let times = datafusion::arrow::array::new_null_array(&DataType::Int64, 4);
        let batch = RecordBatch::try_new(Arc::new(schema()), vec![times, uids]).expect("a batch");
        let plain = nested(6);
        let ours = decoded(&plain);
        let values = |expression: &Arc<dyn PhysicalExpr>| {
            expression.evaluate(&batch).and_then(|values| values.into_array(batch.num_rows())).expect("values")
        };
        assert_eq!(&values(&ours), &values(&plain));
        assert_eq!(ours.to_string(), plain.to_string());
        assert_eq!(ours.data_type(&schema()).expect("a type"), DataType::Int64);
        assert_eq!(ours.nullable(&schema()).expect("known"), plain.nullable(&schema()).expect("known"));
    }

    #[test]
    fn too_deep_is_said_in_one_line() {
        let error = PhysicalExprNode::decode(encoded(&nested(60)).as_slice()).expect_err("messages are nested a hundred deep");
        let told = unreadable("expression", &error).to_string();
        assert!(told.contains("nested too deeply") && !told.contains('\n') && told.len() < 300, "{told}");
    }
}
