//! Has no code: its manifest lists every dependency of the workspace, so that `cargo build -p` resolves the same features as
//! `--workspace` does, and builds nothing twice.
