//! The console is embedded in the binary: build again when a file of it changes.
fn main() {
    println!("cargo:rerun-if-changed=../../console");
}
