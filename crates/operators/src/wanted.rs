//! Which parts of its records a job reads. Scans of one source are decoded once, into all that any of them wants: of an object only the members that some
//! expression names, each a column of its own before anything is filtered or copied.
use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef},
    common::{
        Result, ScalarValue, internal_datafusion_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    physical_expr::{
        ScalarFunctionExpr,
        expressions::{Column, Literal},
    },
    physical_plan::PhysicalExpr,
};
use polybolos_kafka::decode::Field;

use crate::{record_scan::RecordScanExec, steps::Step};

type Expression = Arc<dyn PhysicalExpr>;

/// A column, or a member of an object in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    column: usize,
    path: Vec<String>,
}

/// How much of a value is wanted.
#[derive(Debug)]
enum Want {
    All,
    Members(BTreeMap<String, Want>),
}

impl Want {
    fn add(&mut self, path: &[String]) {
        match (&mut *self, path) {
            (Self::All, _) => {}
            (_, []) => *self = Self::All,
            (Self::Members(members), [first, rest @ ..]) => {
                members.entry(first.clone()).or_insert_with(|| Self::Members(BTreeMap::new())).add(rest);
            }
        }
    }

    /// The type with no more members than wanted.
    fn prune(&self, data_type: &DataType) -> DataType {
        match (self, data_type) {
            (Self::Members(members), DataType::Struct(fields)) => {
                let kept =
                    fields.iter().filter_map(|field| Some(with_type(field, members.get(field.name())?.prune(field.data_type()))));
                DataType::Struct(kept.collect())
            }
            _ => data_type.clone(),
        }
    }
}

fn with_type(field: &FieldRef, data_type: DataType) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// What the scans of one source decode together, and how each goes on from there.
#[derive(Debug)]
pub struct Decoding {
    pub fields: Vec<Field>,
    pub schema: SchemaRef,
    /// Per scan, its steps over `schema`.
    pub steps: Vec<Arc<[Step]>>,
    /// Other expressions that were over the columns of the first scan, over `schema`.
    pub others: Vec<Expression>,
}

impl Decoding {
    /// `scans` are of one source; `others` are over the decoded columns of the first.
    pub fn of(scans: &[&RecordScanExec], others: &[Expression]) -> Result<Self> {
        let mut known: Vec<(Field, FieldRef, Want)> = vec![];
        let mut places = vec![];
        let mut leaves = vec![];
        for (index, scan) in scans.iter().enumerate() {
            let of_scan = leaves_of(scan)?;
            let mut also = vec![];
            for other in others.iter().filter(|_| index == 0) {
                collect(other, &mut also)?;
            }
            let mut place = BTreeMap::new();
            // In the order of the columns.
            for (column, field) in scan.decoded().fields().iter().enumerate() {
                for leaf in of_scan.iter().chain(&also).filter(|leaf| leaf.column == column) {
                    let source =
                        scan.spec().fields.get(column).ok_or_else(|| internal_datafusion_err!("a column without a source"))?;
                    let at = known.iter().position(|(known, ..)| known == source).unwrap_or_else(|| {
                        known.push((source.clone(), field.clone(), Want::Members(BTreeMap::new())));
                        known.len() - 1
                    });
                    known[at].2.add(&leaf.path);
                    place.insert(column, at);
                }
            }
            places.push(place);
            leaves.push(of_scan);
        }
        let fields = known.iter().map(|(_, field, want)| with_type(field, want.prune(field.data_type())));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let steps = scans.iter().zip(&leaves).zip(&places).map(|((scan, leaves), place)| from_leaves(scan, leaves, place, &schema));
        let steps = steps.collect::<Result<_>>()?;
        let others = others.iter().map(|other| moved(other, |column| places[0].get(&column).copied())).collect::<Result<_>>()?;
        Ok(Self { fields: known.into_iter().map(|(source, ..)| source).collect(), schema, steps, others })
    }
}

/// The same scan, which decodes no more than its steps read.
pub fn prune(scan: &RecordScanExec) -> Result<RecordScanExec> {
    let Decoding { fields, schema, mut steps, .. } = Decoding::of(&[scan], &[])?;
    let steps = steps.pop().ok_or_else(|| internal_datafusion_err!("a scan has steps"))?;
    let spec = crate::record_scan::ScanSpec { fields, ..scan.spec().as_ref().clone() };
    Ok(RecordScanExec::new(Arc::new(spec), schema, steps, scan.child().clone()))
}

/// Steps through the first projection: those over decoded columns. `None`: the scan gives its decoded columns on.
fn first_stage(scan: &RecordScanExec) -> Option<usize> {
    scan.steps().iter().position(|step| matches!(step, Step::Project { .. })).map(|last| last + 1)
}

fn leaves_of(scan: &RecordScanExec) -> Result<Vec<Leaf>> {
    let mut leaves = vec![];
    let Some(stage) = first_stage(scan) else {
        return Ok((0..scan.decoded().fields().len()).map(|column| Leaf { column, path: vec![] }).collect());
    };
    for step in &scan.steps()[..stage] {
        match step {
            Step::Filter(predicate) => collect(predicate, &mut leaves)?,
            Step::Project { expressions, .. } => {
                expressions.iter().try_for_each(|(expression, _)| collect(expression, &mut leaves))?
            }
        }
    }
    Ok(leaves)
}

fn collect(expression: &Expression, leaves: &mut Vec<Leaf>) -> Result<()> {
    expression.apply(|node| {
        let Some(leaf) = leaf_of(node) else { return Ok(TreeNodeRecursion::Continue) };
        if !leaves.contains(&leaf) {
            leaves.push(leaf);
        }
        Ok(TreeNodeRecursion::Jump)
    })?;
    Ok(())
}

/// `column`, or `get_field(column, 'member', …)`.
fn leaf_of(expression: &Expression) -> Option<Leaf> {
    if let Some(column) = expression.downcast_ref::<Column>() {
        return Some(Leaf { column: column.index(), path: vec![] });
    }
    let call = expression.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.name() == "get_field")?;
    let (of, names) = call.args().split_first()?;
    let mut leaf = leaf_of(of)?;
    for name in names {
        match name.downcast_ref::<Literal>()?.value() {
            ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name)) => {
                leaf.path.push(name.clone());
            }
            _ => return None,
        }
    }
    Some(leaf)
}

/// Over columns that lie elsewhere.
pub(crate) fn moved(expression: &Expression, place: impl Fn(usize) -> Option<usize>) -> Result<Expression> {
    let at = |node: Expression| {
        let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
        let at = place(column.index()).ok_or_else(|| internal_datafusion_err!("column {} is not decoded", column.name()))?;
        Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Expression))
    };
    Ok(expression.clone().transform_up(at)?.data)
}

/// A scan's steps, begun by a projection that makes a column of every leaf.
fn from_leaves(scan: &RecordScanExec, leaves: &[Leaf], place: &BTreeMap<usize, usize>, schema: &SchemaRef) -> Result<Arc<[Step]>> {
    let stage = first_stage(scan);
    let mut columns: Vec<Option<(Expression, String)>> = vec![None; leaves.len()];
    let mut to_leaves = |expression: &Expression| {
        let leaf = |node: Expression| {
            let Some(leaf) = leaf_of(&node) else { return Ok(Transformed::no(node)) };
            let index = leaves.iter().position(|known| *known == leaf);
            let index = index.ok_or_else(|| internal_datafusion_err!("{node} is not decoded"))?;
            if columns[index].is_none() {
                let field = scan.decoded().field(leaf.column).name();
                let name = [field].into_iter().chain(&leaf.path).map(String::as_str).collect::<Vec<_>>().join(".");
                columns[index] = Some((moved(&node, |column| place.get(&column).copied())?, name));
            }
            let name = columns[index].as_ref().map_or("", |(_, name)| name);
            Ok(Transformed::new(Arc::new(Column::new(name, index)) as Expression, true, TreeNodeRecursion::Jump))
        };
        Ok(expression.clone().transform_down(leaf)?.data)
    };
    let mut steps = vec![];
    match stage {
        Some(stage) => {
            for (index, step) in scan.steps().iter().enumerate() {
                steps.push(if index < stage { step.map_expressions(&mut to_leaves)? } else { step.clone() });
            }
        }
        None => {
            for (index, field) in scan.decoded().fields().iter().enumerate() {
                to_leaves(&(Arc::new(Column::new(field.name(), index)) as Expression))?;
            }
            steps.extend(scan.steps().iter().cloned());
        }
    }
    let columns = columns.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| internal_datafusion_err!("a leaf nobody reads"))?;
    let in_place = |(index, (expression, _)): (usize, &(Expression, String))| {
        expression.downcast_ref::<Column>().is_some_and(|column| column.index() == index)
    };
    if columns.len() != schema.fields().len() || !columns.iter().enumerate().all(in_place) {
        steps.insert(0, Step::project(columns, schema)?);
    }
    Ok(steps.into())
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StructArray, UInt32Array},
            datatypes::{Field as ArrowField, Fields},
        },
        execution::TaskContext,
        functions::core::get_field,
        logical_expr::Operator,
        physical_expr::expressions::{binary, case, col, lit},
    };

    use polybolos_kafka::connection::Connection;

    use super::*;
    use crate::{
        codec::check_travels,
        record_scan::{OnError, ScanSpec},
        steps,
        task::descriptor_source,
    };

    const MEMBERS: [&str; 3] = ["auction", "price", "url"];

    /// `kind`, and objects `bid` and `person` of three members each.
    fn table() -> SchemaRef {
        let members: Fields = MEMBERS.iter().map(|name| ArrowField::new(*name, DataType::Int64, true)).collect();
        let field = |name: &str, data_type| ArrowField::new(name, data_type, true);
        let object = DataType::Struct(members);
        Arc::new(Schema::new(vec![field("kind", DataType::Int32), field("bid", object.clone()), field("person", object)]))
    }

    /// Members hold ten times the row and their place among all members.
    fn batch(schema: &SchemaRef) -> RecordBatch {
        let rows = [1_i64, 2, 3];
        let column = |field: &FieldRef| -> ArrayRef {
            let DataType::Struct(members) = field.data_type() else { return Arc::new(Int32Array::from(vec![1, 2, 1])) };
            let member = |member: &FieldRef| -> ArrayRef {
                let place = MEMBERS.iter().position(|name| name == member.name()).expect("a member") as i64;
                let of_person = if field.name() == "person" { 100 } else { 0 };
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row * 10 + place + of_person)))
            };
            Arc::new(StructArray::new(members.clone(), members.iter().map(member).collect(), None))
        };
        RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).expect("a batch")
    }

    fn member(schema: &SchemaRef, column: &str, name: &str) -> Expression {
        let arguments = vec![col(column, schema).expect("a column"), lit(name)];
        Arc::new(ScalarFunctionExpr::try_new(get_field(), arguments, schema, Arc::default()).expect("get_field"))
    }

    fn scan(kind: i32, wanted: &[(&str, &str)]) -> RecordScanExec {
        let schema = table();
        let spec = ScanSpec {
            job: "j".into(),
            incarnation: "i".into(),
            source: 0,
            connection: Connection { bootstrap_servers: "kafka".into(), properties: BTreeMap::new() },
            topic: "t".into(),
            fields: schema.fields().iter().map(|field| Field::Json { name: field.name().clone() }).collect(),
            options: Default::default(),
            on_error: OnError::Fail,
            checks: vec![],
        };
        let of_kind = binary(col("kind", &schema).expect("a column"), Operator::Eq, lit(kind), &schema).expect("a condition");
        let columns = wanted.iter().map(|(column, name)| (member(&schema, column, name), (*name).to_owned())).collect();
        let steps = [Step::Filter(of_kind), Step::project(columns, &schema).expect("a projection")];
        RecordScanExec::new(Arc::new(spec), schema, steps.into(), descriptor_source(&[]).expect("a source"))
    }

    #[test]
    fn what_an_executor_could_not_read_is_refused() {
        let (plain, schema, context) = (scan(1, &[]), table(), TaskContext::default());
        let nested = |levels: i32| {
            (0..levels).fold(lit(-1_i64), |inner, level| {
                let kind = col("kind", &schema).expect("a column");
                let is_it = binary(kind, Operator::Eq, lit(level), &schema).expect("a condition");
                case(None, vec![(is_it, lit(i64::from(level)))], Some(inner)).expect("a case")
            })
        };
        let deep = |levels: i32| {
            let step = Step::project(vec![(nested(levels), "n".to_owned())], &schema).expect("a projection");
            RecordScanExec::new(plain.spec().clone(), schema.clone(), vec![step].into(), plain.child().clone())
        };
        check_travels(&deep(10), &context).expect("ten levels travel");
        let error = check_travels(&deep(60), &context).expect_err("sixty do not").to_string();
        assert!(error.contains("nested too deeply") && !error.contains('\n'), "{error}");
    }

    fn answer(steps: &[Step], batch: RecordBatch) -> Vec<RecordBatch> {
        let records = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
        let mut failures = vec![];
        let rows = steps::run(steps, &[], batch, records, &mut failures).expect("runs");
        assert_eq!(failures, []);
        rows
    }

    #[test]
    fn only_members_that_are_read_are_decoded() {
        let whole = scan(1, &[("bid", "price"), ("bid", "auction")]);
        let pruned = prune(&whole).expect("prunes");
        assert_eq!(pruned.spec().fields.len(), 2, "nothing of person is read");
        let DataType::Struct(members) = pruned.decoded().field(1).data_type() else { panic!("{:?}", pruned.decoded()) };
        assert_eq!(members.iter().map(|member| member.name().as_str()).collect::<Vec<_>>(), ["auction", "price"]);
        let rows = answer(pruned.steps(), batch(pruned.decoded()));
        assert_eq!(rows, answer(whole.steps(), batch(whole.decoded())));
        assert_eq!(rows[0].num_rows(), 2);
    }

    #[test]
    fn scans_of_one_source_are_decoded_together() {
        let scans = [scan(1, &[("bid", "price")]), scan(2, &[("person", "url"), ("bid", "url")])];
        let together = Decoding::of(&[&scans[0], &scans[1]], &[member(&table(), "person", "auction")]).expect("plans");
        let of_person = together.schema.field_with_name("person").expect("person").data_type();
        assert!(matches!(of_person, DataType::Struct(members) if members.len() == 2), "{of_person}");
        for (scan, steps) in scans.iter().zip(&together.steps) {
            assert_eq!(answer(steps, batch(&together.schema)), answer(scan.steps(), batch(scan.decoded())));
        }
        let other = together.others[0].evaluate(&batch(&together.schema)).expect("evaluates").into_array(3).expect("an array");
        assert_eq!(other.as_ref(), &Int64Array::from(vec![110, 120, 130]));
    }
}
