//! Compiles the `.proto` files in pure Rust: nobody needs `protoc`.
use std::{error::Error, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["polybolos/executor/v1/control.proto", "polybolos/executor/v1/exchange.proto", "polybolos/plan/v1/plan.proto"];
    println!("cargo:rerun-if-changed=polybolos");
    println!("cargo:rustc-env=POLYBOLOS_PROTOCOL={:08x}", fingerprint(&files)?);
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".polybolos.executor.v1.PassRequest").compile_fds(descriptors)?;
    Ok(())
}

/// FNV-1a over the contracts: another one whenever they change.
fn fingerprint(files: &[&str]) -> io::Result<u32> {
    let mut hash = 0x811c_9dc5_u32;
    for file in files {
        for byte in fs::read(file)? {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    Ok(hash)
}
