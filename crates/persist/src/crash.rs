//! Named moments at which a test can kill the process: just after something is durable, just before somebody is told. In builds of the `dev` profile only; in a release
//! a point is nothing.
//!
//! `POLYBOLOS_CRASH_POINTS` names a folder. A process that passes a point while a file of the point's name lies there renames it to `NAME.fired` and aborts: who comes
//! first dies, once, and a test sees that it did.

/// Passes the point.
#[cfg(crash_points)]
pub fn point(name: &str) {
    use std::{path::PathBuf, sync::LazyLock};

    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("POLYBOLOS_CRASH_POINTS").map(PathBuf::from));
    let Some(folder) = &*FOLDER else { return };
    if std::fs::rename(folder.join(name), folder.join(format!("{name}.fired"))).is_ok() {
        eprintln!("crash point {name}");
        std::process::abort();
    }
}

/// Passes the point.
#[cfg(not(crash_points))]
pub fn point(_: &str) {}
