//! Servers at the word of a test that is another process: one command per line, such as `kill kafka` or `start cassandra`.
use crate::error::Result;
use crate::server::LocalServer;
use std::fmt;
use std::str::FromStr;

/// What to do with which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub verb: Verb,
    pub server: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Kill,
    Pause,
    Resume,
}

const VERBS: [(&str, Verb); 5] =
    [("start", Verb::Start), ("stop", Verb::Stop), ("kill", Verb::Kill), ("pause", Verb::Pause), ("resume", Verb::Resume)];

impl Order {
    /// Returns when it is done: a started server serves.
    pub fn carry_out(&self, server: &LocalServer) -> Result<()> {
        match self.verb {
            Verb::Start => server.start(),
            Verb::Stop => server.stop(),
            Verb::Kill => server.kill(),
            Verb::Pause => server.pause(),
            Verb::Resume => server.resume(),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(word), Some(server), None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("{line:?} is no order; write for example \"kill kafka\""));
        };
        let verb = VERBS.iter().find(|(name, _)| *name == word).map(|(_, verb)| *verb);
        let verb = verb.ok_or_else(|| format!("{word:?} cannot be done to a server; write start, stop, kill, pause or resume"))?;
        Ok(Self { verb, server: server.to_owned() })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = VERBS.iter().find(|(_, verb)| *verb == self.verb).map_or("?", |(name, _)| name);
        write!(f, "{verb} {}", self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_mistakes_named() {
        let order: Order = " kill  kafka ".parse().unwrap();
        assert_eq!(order, Order { verb: Verb::Kill, server: "kafka".into() });
        assert_eq!(order.to_string(), "kill kafka");
        assert!("kill".parse::<Order>().unwrap_err().contains("kill kafka"));
        assert!("kill kafka now".parse::<Order>().is_err());
        assert!("end kafka".parse::<Order>().unwrap_err().contains("pause"));
    }
}
