//! Compiles the `.proto` files in pure Rust: nobody needs `protoc`.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["polybolos/executor/v1/control.proto", "polybolos/executor/v1/exchange.proto", "polybolos/plan/v1/plan.proto"];
    println!("cargo:rerun-if-changed=polybolos");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".polybolos.executor.v1.PassRequest").compile_fds(descriptors)?;
    Ok(())
}
