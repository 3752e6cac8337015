//! Streaming jobs on this leader: the shell around each [`polybolos_streaming::coordinator::JobCoordinator`], and the manager that makes,
//! finds and ends them.
//!
//! * [`spec`]: what a runner needs of a job's definition;
//! * [`sink`]: what becomes of an INSERT's rows;
//! * [`planning`]: what a job's plan becomes on this platform; [`rehearsal`]: whether it becomes one, without a platform;
//! * [`runner`]: one job's loop: events in, actions carried out;
//! * [`recording`]: whether it is recorded what a job shall do;
//! * [`assignment`]: which executor reads which partition ahead;
//! * [`topics`]: what the broker says of a source's topic;
//! * [`history`]: the last two minutes, for people and metrics; [`spans`]: epochs, for traces;
//! * [`chronicle`]: what a job went through, under earlier leaders too, [`troubles`] among it; [`chronicler`]: that on the store;
//! * [`latest`]: what was written lately, for whoever watches a table;
//! * [`earlier_rows`]: what tables hold before a job fills them;
//! * [`once`]: an INSERT that ends, which is no job;
//! * [`restart`]: incarnations that do not begin from nothing, and savepoints; [`carry`]: savepoints as archives; [`shape`]: what such a beginning must fit; [`replace`]: rows of the earlier run;
//! * [`leftovers`]: files of incarnations that have ended;
//! * [`upgrade`]: another definition that keeps the state;
//! * [`verify`]: a job's tables beside a batch query over the same records;
//! * [`manager`]: all jobs of this leader.

pub mod assignment;
pub mod carry;
pub mod chronicle;
pub mod chronicler;
pub mod earlier_rows;
pub mod history;
pub mod latest;
pub mod leftovers;
pub mod manager;
pub mod once;
pub mod planning;
pub mod recording;
pub mod rehearsal;
pub mod replace;
pub mod restart;
pub mod runner;
pub mod shape;
pub mod sink;
pub mod spans;
pub mod spec;
pub mod topics;
pub mod troubles;
pub mod upgrade;
pub mod verify;
