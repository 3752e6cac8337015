//! The wire contracts of Polybolos and the Rust types generated from them. The contracts are the `.proto` files beside this crate.
#![forbid(unsafe_code)]

/// Between executors and the leading scheduler.
pub mod executor {
    pub mod v1 {
        tonic::include_proto!("polybolos.executor.v1");
    }
}

/// Our plan nodes inside Ballista's physical plans.
pub mod plan {
    pub mod v1 {
        tonic::include_proto!("polybolos.plan.v1");
    }
}

pub mod build;
pub mod convert;
