//! Which build an executor or a scheduler is. Plans and orders hold more than the contracts say (JSON, serialised expressions), so only the same
//! version understands them for sure, with the same contracts.
use std::fmt;

/// A version, and a name of the contracts that it speaks. Builds that tell neither are older than both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build<'a> {
    pub version: &'a str,
    pub protocol: &'a str,
}

/// This one.
pub const BUILD: Build<'static> = Build { version: env!("CARGO_PKG_VERSION"), protocol: env!("POLYBOLOS_PROTOCOL") };

impl fmt::Display for Build<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        write!(f, "{} (protocol {})", or_unknown(self.version), or_unknown(self.protocol))
    }
}

/// Why an executor, named by its host, and a scheduler cannot work together; `None` where they can.
pub fn mismatch(host: &str, executor: Build<'_>, scheduler: Build<'_>) -> Option<String> {
    (executor != scheduler).then(|| {
        format!(
            "the executor on {host} is of version {executor} and the scheduler of version {scheduler}; update one of them so that both are the same"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_build_fits() {
        assert_eq!(mismatch("here", BUILD, BUILD), None);
        let other = Build { protocol: "0badcafe", ..BUILD };
        let told = mismatch("here", other, BUILD).expect("another protocol");
        assert!(told.contains(&other.to_string()) && told.contains(&BUILD.to_string()) && told.contains("update"), "{told}");
        let old = Build { version: "0.0.9", protocol: "" };
        assert!(mismatch("here", BUILD, old).expect("another version").contains("0.0.9 (protocol unknown)"));
    }
}
