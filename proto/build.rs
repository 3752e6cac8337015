//! Compiles the `.proto` files in pure Rust: nobody needs `protoc`.
use std::error::Error;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["polybolos/executor/v1/control.proto", "polybolos/executor/v1/exchange.proto", "polybolos/plan/v1/plan.proto"];
    println!("cargo:rerun-if-changed=polybolos");
    let descriptors = protox::compile(files, ["."])?;
    // Comments and places in the text are no part of the contracts.
    let mut contracts = descriptors.clone();
    for file in &mut contracts.file {
        file.source_code_info = None;
    }
    println!("cargo:rustc-env=POLYBOLOS_PROTOCOL={:08x}", fingerprint(&contracts.encode_to_vec()));
    tonic_prost_build::configure().bytes(".polybolos.executor.v1.PassRequest").compile_fds(descriptors)?;
    Ok(())
}

/// FNV-1a: another one whenever the contracts change.
fn fingerprint(contracts: &[u8]) -> u32 {
    contracts.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
