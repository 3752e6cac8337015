//! `now()` in a job: the time of the epoch's frame, not of the moment the job was planned. DataFusion's own `now()` is folded into a
//! constant while planning; a job's plan lives for months. The functions here shadow it: they are volatile, so nothing folds them, and
//! read [`EpochClock`] from the session's configuration when they run.
//!
//! Scheduler and executors both call [`register`]; whoever submits an epoch sets `polybolos.epoch_clock_us` in the session's
//! configuration, which travels to executors as a key and a value.
use std::{any::Any, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{
        Result, ScalarValue,
        config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions},
        exec_datafusion_err, exec_err,
        tree_node::{Transformed, TreeNode},
    },
    execution::FunctionRegistry,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::lit},
    prelude::SessionConfig,
};

/// Key of the frame's clock, in microseconds since 1970.
pub const EPOCH_CLOCK_KEY: &str = "polybolos.epoch_clock_us";
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// The time that an epoch's expressions see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochClock {
    /// Microseconds since 1970; `None` outside an epoch.
    pub clock_us: Option<i64>,
}

impl ConfigExtension for EpochClock {
    const PREFIX: &'static str = "polybolos";
}

impl ExtensionOptions for EpochClock {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if key != "epoch_clock_us" {
            return exec_err!("unknown setting polybolos.{key}; known is {EPOCH_CLOCK_KEY}");
        }
        let clock =
            value.parse().map_err(|_| exec_datafusion_err!("{EPOCH_CLOCK_KEY} is {value:?}; it takes microseconds since 1970"))?;
        self.clock_us = Some(clock);
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry {
            key: EPOCH_CLOCK_KEY.to_owned(),
            value: self.clock_us.map(|clock| clock.to_string()),
            description: "The time that now() answers in an epoch, in microseconds since 1970",
        }]
    }
}

/// `config` with the extension, so that [`EPOCH_CLOCK_KEY`] can be set.
pub fn with_epoch_clock(mut config: SessionConfig, clock_us: Option<i64>) -> SessionConfig {
    config.options_mut().extensions.insert(EpochClock { clock_us });
    config
}

/// Shadows `now`, `current_timestamp`, `proctime`, `current_date`, `today` and `current_time` in `registry`.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in functions() {
        registry.register_udf(function)?;
    }
    Ok(())
}

/// The functions that [`register`] registers.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    [Reading::Instant, Reading::Date, Reading::Time]
        .into_iter()
        .map(|reading| Arc::new(ScalarUDF::new_from_impl(ClockFunction::new(reading))))
        .collect()
}

/// `expression` with every reading of the clock replaced by its value. Physical expressions keep the configuration they were made (or
/// decoded) with; one that serves many epochs is frozen for each of them.
///
/// # Errors
/// Never in practice: rewriting only fails when a child cannot be replaced.
pub fn freeze(expression: Arc<dyn PhysicalExpr>, clock_us: i64) -> Result<Arc<dyn PhysicalExpr>> {
    let frozen = expression.transform_up(|node| {
        let reading = node.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.args().is_empty()).and_then(|call| {
            [Reading::Instant, Reading::Date, Reading::Time].into_iter().find(|reading| reading.name() == call.fun().name())
        });
        Ok(match reading {
            Some(reading) => Transformed::yes(lit(reading.at(clock_us))),
            None => Transformed::no(node),
        })
    })?;
    Ok(frozen.data)
}

/// Whether `expression` reads the clock, so that [`freeze`] would change it.
pub fn reads_clock(expression: &Arc<dyn PhysicalExpr>) -> bool {
    let found = expression.exists(|node| {
        let call = node.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.args().is_empty());
        Ok(call.is_some_and(|call| ["now", "current_date", "current_time"].contains(&call.fun().name())))
    });
    found.unwrap_or(false)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    Instant,
    Date,
    Time,
}

impl Reading {
    fn name(self) -> &'static str {
        match self {
            Self::Instant => "now",
            Self::Date => "current_date",
            Self::Time => "current_time",
        }
    }

    fn at(self, clock_us: i64) -> ScalarValue {
        match self {
            Self::Instant => ScalarValue::TimestampMicrosecond(Some(clock_us), Some("+00:00".into())),
            Self::Date => {
                let days = clock_us.div_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY);
                ScalarValue::Date32(Some(i32::try_from(days).unwrap_or(i32::MAX)))
            }
            Self::Time => {
                let of_day = clock_us.rem_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY);
                ScalarValue::Time64Nanosecond(Some(of_day * 1_000))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ClockFunction {
    reading: Reading,
    signature: Signature,
    aliases: Vec<String>,
}

impl ClockFunction {
    fn new(reading: Reading) -> Self {
        let aliases = match reading {
            Reading::Instant => vec!["current_timestamp".to_owned(), "proctime".to_owned()],
            Reading::Date => vec!["today".to_owned()],
            Reading::Time => Vec::new(),
        };
        Self { reading, signature: Signature::nullary(Volatility::Volatile), aliases }
    }
}

impl ScalarUDFImpl for ClockFunction {
    fn name(&self) -> &str {
        self.reading.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.reading {
            Reading::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Reading::Date => DataType::Date32,
            Reading::Time => DataType::Time64(TimeUnit::Nanosecond),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let clock = clock_of(&args.config_options);
        let Some(clock_us) = clock else {
            return exec_err!("{}() of a job needs the epoch's clock; set {EPOCH_CLOCK_KEY} in the session", self.name());
        };
        Ok(ColumnarValue::Scalar(self.reading.at(clock_us)))
    }
}

fn clock_of(options: &ConfigOptions) -> Option<i64> {
    options.extensions.get::<EpochClock>().and_then(|clock| clock.clock_us)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn now_is_the_frames_clock() {
        // 2026-11-24 05:00:00.000123 UTC
        let clock_us = 1_795_496_400_000_123;
        let context = SessionContext::new_with_config(with_epoch_clock(SessionConfig::new(), Some(clock_us)));
        register(&mut *context.state_ref().write()).unwrap();
        let sql =
            "SELECT CAST(now() AS VARCHAR) || ' ' || CAST(current_date AS VARCHAR) || ' ' || CAST(current_time AS VARCHAR) AS t";
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let text = datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        assert!(text.contains("2026-11-24T05:00:00.000123Z 2026-11-24 05:00:00.000123"), "{text}");
    }

    #[tokio::test]
    async fn the_clock_travels_as_a_key_and_a_value() {
        let mut config = with_epoch_clock(SessionConfig::new(), None);
        config.options_mut().set(EPOCH_CLOCK_KEY, "5").unwrap();
        assert_eq!(clock_of(config.options()), Some(5));
        let entry = config.options().entries().into_iter().find(|entry| entry.key == EPOCH_CLOCK_KEY).unwrap();
        assert_eq!(entry.value.as_deref(), Some("5"));
        assert!(config.options_mut().set("polybolos.epoch_clock", "5").is_err());
    }
}
