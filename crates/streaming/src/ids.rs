//! Newtypes for everything that is counted or named, so that an epoch is never taken for an offset.
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Number of an epoch within an incarnation; the first is 1, and 0 means none yet.
    Epoch(u64)
);
number!(
    /// Raised by every leader that takes a job over; a lower one is fenced.
    Generation(u64)
);
number!(
    /// One try at computing an epoch, counted within a generation.
    Attempt(u64)
);
number!(
    /// Index of a source (a scanned table) in a job's plan.
    SourceId(u32)
);
number!(
    /// Index of a sink (an INSERT's target) in a job.
    SinkId(u32)
);
number!(
    /// Index of a part within an epoch, `0..P`; it is added to the window's start to give the write timestamp.
    PartIndex(u16)
);
text!(
    /// A job's name as users write it.
    JobName
);
text!(
    /// One life of a job from its first offset on; everything stored is keyed by it.
    Incarnation
);
text!(
    /// An executor process; a new process has a new id.
    ExecutorId
);
text!(
    /// Random, never repeated: tells one manifest, attempt or task execution from every other.
    Nonce
);
text!(
    /// What a store answers to tell one content of an object from the next (an ETag); opaque.
    Version
);

/// Publishers of a sink that commits a part together with its position (a topic): parts are shared among them by their numbers.
pub const PUBLISHERS: u16 = 4;

impl PartIndex {
    /// The publisher of such a sink that always has parts of this number.
    #[must_use]
    pub fn publisher(self) -> u16 {
        self.0 % PUBLISHERS
    }
}

/// A partition of one of the job's sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourcePartition {
    pub source: SourceId,
    pub partition: i32,
}

impl fmt::Display for SourcePartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.partition)
    }
}
