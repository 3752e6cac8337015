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
        write!(f, "{} (protocol {})", shown(self.version), shown(self.protocol))
    }
}

/// Of what another says of itself, what is repeated.
const SHOWN_CHARS: usize = 64;

/// What another says of itself, as it stands in messages: in one line, and short.
pub fn shown(text: &str) -> String {
    if text.is_empty() {
        return "unknown".into();
    }
    text.chars().filter(|character| !character.is_control()).take(SHOWN_CHARS).collect()
}

/// Why an executor, named by its host, and a scheduler cannot work together; `None` where they can.
pub fn mismatch(host: &str, executor: Build<'_>, scheduler: Build<'_>) -> Option<String> {
    (executor != scheduler).then(|| {
        let host = shown(host);
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
        let long = "x\n".repeat(10_000);
        let told = mismatch(&long, Build { version: &long, protocol: &long }, BUILD).expect("another version");
        assert!(told.len() < 500 && !told.contains('\n'), "{told}");
        let old = Build { version: "0.0.9", protocol: "" };
        assert!(mismatch("here", BUILD, old).expect("another version").contains("0.0.9 (protocol unknown)"));
    }
}
