//! Crash points are compiled into what the tests run, which is the profile that `make` builds with; a release has none.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(crash_points)");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        println!("cargo::rustc-cfg=crash_points");
    }
}
