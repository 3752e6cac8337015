//! CAST to the types of columns that DataFusion has no word for: `TIMESTAMP_LTZ(3)`, `BYTES`, `UUID`.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{Field, FieldRef},
    common::{Result, plan_datafusion_err},
    logical_expr::planner::TypePlanner,
    sql::sqlparser::ast::{DataType, TimezoneInfo},
};

use crate::parser;

#[derive(Debug)]
pub(crate) struct CastTypes;

impl TypePlanner for CastTypes {
    fn plan_type_field(&self, sql_type: &DataType) -> Result<Option<FieldRef>> {
        match sql_type {
            DataType::Custom(..) | DataType::Bytes(_) | DataType::Uuid => {}
            DataType::Varbinary(_) | DataType::Binary(_) | DataType::Time(Some(_), TimezoneInfo::None) => {}
            // Of other precisions than DataFusion's four, too.
            DataType::Timestamp(Some(_), TimezoneInfo::None) => {}
            DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) | DataType::TimestampNtz(_) => {}
            _ => return Ok(None),
        }
        let known = parser::column_type(&sql_type.to_string()).map_err(|error| plan_datafusion_err!("{error}"))?;
        Ok(Some(Arc::new(Field::new("", known.arrow(), true))))
    }
}
