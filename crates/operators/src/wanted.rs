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
