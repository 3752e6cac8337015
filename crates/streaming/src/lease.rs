//! Who leads (EPOCHS rule 5), pure: an election over one object that holds a counter, raised by compare-and-swap.
//!
//! The leader raises the counter every [`LeaseConfig::renew_us`]. A standby takes over when its *own* monotonic clock has seen the counter unchanged for
//! [`LeaseConfig::lease_us`]. The leader counts from the moment it *sent* its last successful write and deposes itself [`LeaseConfig::margin_us`] before a standby
//! could: no standby can have seen that counter earlier than it was sent. Nobody compares wall clocks. Being deposed is final: the process
//! starts anew, or makes a new [`Election`].
//!
//! This alone does not keep two leaders from writing (a paused process may believe for a moment); the generation that each takeover raises does, at every
//! manifest swap.
use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Version};

/// What the object holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Raised by every write.
    pub counter: u64,
    /// Unique to the process that leads; empty when it gave the lease back.
    pub holder: String,
    /// `host:port` where the leader answers.
    pub endpoint: String,
    /// Where people find the leader; empty where it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub door: String,
    /// Which machine the leader is on; empty where it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    pub generation: Generation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    pub lease_us: u64,
    pub margin_us: u64,
    pub renew_us: u64,
    /// How often a standby looks, and how soon an unclear answer is followed by another question.
    pub look_us: u64,
    /// No answer for so long counts as unknown.
    pub timeout_us: u64,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { lease_us: 4_000_000, margin_us: 1_000_000, renew_us: 800_000, look_us: 400_000, timeout_us: 1_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    Tick,
    /// The answer to [`LeaseAction::Read`].
    Read(ReadAnswer),
    /// The answer to [`LeaseAction::Write`] with this counter.
    Written {
        counter: u64,
        answer: WriteAnswer,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    Found { version: Version, record: LeaseRecord },
    Missing,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    Stored(Version),
    Conflict,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    Read,
    /// Compare-and-swap; `None`: create, which fails if the object exists.
    Write {
        expected: Option<Version>,
        record: LeaseRecord,
    },
    /// This process leads, in this generation, from now until `Deposed`.
    Lead(Generation),
    /// Stop everything that only a leader may do, now.
    Deposed,
    /// The lease is given back.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Standby,
    Leader(Generation),
    Deposed,
    Released,
}

#[derive(Debug)]
pub struct Election {
    config: LeaseConfig,
    holder: String,
    endpoint: String,
    door: String,
    machine: String,
    role: Role,
    /// What the object held last, as far as known, and since when (by our clock).
    seen: Option<Seen>,
    /// Under way, and when it was sent.
    asked: Option<(Asked, u64)>,
    /// When to ask next.
    next_us: u64,
    /// Leader: when the last successful write was sent.
    renewed_us: u64,
    /// The highest counter ever sent: each write has one of its own, so that a late one is never taken for its successor.
    tried: u64,
    releasing: bool,
}

#[derive(Debug)]
struct Seen {
    version: Version,
    record: LeaseRecord,
    since_us: u64,
}

#[derive(Debug)]
enum Asked {
    Read,
    Write {
        record: LeaseRecord,
    },
    /// After a write without a clear answer: did it get through? `sent_us` is the write's.
    Doubt {
        record: LeaseRecord,
        sent_us: u64,
    },
}

impl Election {
    /// `holder` must be unique to this process (a random id). The first [`LeaseEvent::Tick`] starts it.
    pub fn new(config: LeaseConfig, holder: impl Into<String>, endpoint: impl Into<String>) -> Self {
        assert!(config.margin_us < config.lease_us, "the margin must be shorter than the lease");
        Self {
            config,
            holder: holder.into(),
            endpoint: endpoint.into(),
            door: String::new(),
            machine: String::new(),
            role: Role::Standby,
            seen: None,
            asked: None,
            next_us: 0,
            renewed_us: 0,
            tried: 0,
            releasing: false,
        }
    }

    /// Tells standbys where people find this process when it leads.
    #[must_use]
    pub fn with_door(mut self, door: impl Into<String>) -> Self {
        self.door = door.into();
        self
    }

    /// Tells standbys which machine this process is on.
    #[must_use]
    pub fn on_machine(mut self, machine: impl Into<String>) -> Self {
        self.machine = machine.into();
        self
    }

    /// The role by this clock: a leader whose time is over is deposed even before it hears of it. Ask it before anything that only a leader may do.
    pub fn role(&self, now_us: u64) -> Role {
        match self.role {
            Role::Leader(_) if now_us >= self.led_until_us() => Role::Deposed,
            role => role,
        }
    }

    /// Who leads, as far as this process has seen: for telling clients where to go.
    pub fn leader(&self) -> Option<&LeaseRecord> {
        self.seen.as_ref().map(|seen| &seen.record).filter(|record| !record.holder.is_empty())
    }

    pub fn next_wakeup(&self) -> Option<u64> {
        if matches!(self.role, Role::Deposed | Role::Released) {
            return None;
        }
        let ask = self.asked.as_ref().map_or(self.next_us, |(_, sent_us)| sent_us + self.config.timeout_us);
        let end = matches!(self.role, Role::Leader(_)).then(|| self.led_until_us());
        Some(end.map_or(ask, |end| ask.min(end)))
    }

    /// A leader gives its lease back, so that the next one need not wait; call it after its last grant. What it still has on the way to the store, the
    /// first swap of the next generation settles.
    pub fn release(&mut self, now_us: u64) -> Vec<LeaseAction> {
        self.releasing = true;
        self.next_us = now_us;
        if !matches!(self.role, Role::Leader(_)) {
            self.role = Role::Released;
            return vec![LeaseAction::Released];
        }
        self.on_event(now_us, LeaseEvent::Tick)
    }

    pub fn on_event(&mut self, now_us: u64, event: LeaseEvent) -> Vec<LeaseAction> {
        let mut actions = Vec::new();
        if matches!(self.role, Role::Deposed | Role::Released) {
            return actions;
        }
        match event {
            LeaseEvent::Tick => {}
            LeaseEvent::Read(answer) => self.on_read(now_us, answer, &mut actions),
            LeaseEvent::Written { counter, answer } => self.on_written(now_us, counter, answer, &mut actions),
        }
        if matches!(self.role, Role::Leader(_)) && now_us >= self.led_until_us() {
            self.depose(&mut actions);
        }
        self.ask(now_us, &mut actions);
        actions
    }

    fn led_until_us(&self) -> u64 {
        self.renewed_us + self.config.lease_us - self.config.margin_us
    }

    fn on_read(&mut self, now_us: u64, answer: ReadAnswer, actions: &mut Vec<LeaseAction>) {
        // An answer to an earlier question may come late: it only shows an earlier counter, which restarts our waiting at worst. After a doubted
        // write it is told apart by the counter.
        let Some((asked @ (Asked::Read | Asked::Doubt { .. }), _)) =
            self.asked.take_if(|(asked, _)| !matches!(asked, Asked::Write { .. }))
        else {
            return;
        };
        self.next_us = now_us + self.config.look_us;
        match (answer, asked) {
            (ReadAnswer::Unknown, Asked::Doubt { record, sent_us }) => {
                self.asked = Some((Asked::Doubt { record, sent_us }, now_us.saturating_sub(self.config.timeout_us)))
            }
            (ReadAnswer::Unknown, _) => {}
            (ReadAnswer::Found { version, record }, Asked::Doubt { record: ours, sent_us }) if record == ours => {
                self.won(version, record, sent_us, now_us, actions)
            }
            (ReadAnswer::Found { version, record }, asked) => {
                if matches!(self.role, Role::Leader(_)) && record.holder != self.holder {
                    return self.depose(actions);
                }
                if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
                    self.seen = Some(Seen { version, record, since_us: now_us });
                }
                // A write that did not get through may fail at once again, on a full disk for hours.
                if self.may_write(now_us) && matches!(asked, Asked::Read) {
                    self.next_us = now_us;
                }
            }
            (ReadAnswer::Missing, _) if matches!(self.role, Role::Leader(_)) => self.depose(actions),
            (ReadAnswer::Missing, _) => {
                self.seen = None;
                self.write(now_us, actions);
            }
        }
    }

    fn on_written(&mut self, now_us: u64, counter: u64, answer: WriteAnswer, actions: &mut Vec<LeaseAction>) {
        let Some((Asked::Write { record }, sent_us)) =
            self.asked.take_if(|(asked, _)| matches!(asked, Asked::Write { record } if record.counter == counter))
        else {
            return;
        };
        match answer {
            WriteAnswer::Stored(version) => self.won(version, record, sent_us, now_us, actions),
            WriteAnswer::Conflict | WriteAnswer::Unknown => {
                self.asked = Some((Asked::Doubt { record, sent_us }, now_us));
                actions.push(LeaseAction::Read);
            }
        }
    }

    /// Our write is in the object; it was sent at `sent_us`.
    fn won(&mut self, version: Version, record: LeaseRecord, sent_us: u64, now_us: u64, actions: &mut Vec<LeaseAction>) {
        let generation = record.generation;
        let was_leader = matches!(self.role, Role::Leader(_));
        let released = record.holder.is_empty();
        self.seen = Some(Seen { version, record, since_us: now_us });
        self.renewed_us = sent_us;
        self.next_us = sent_us + self.config.renew_us;
        if released {
            self.role = Role::Released;
            actions.push(LeaseAction::Released);
            return;
        }
        if now_us >= self.led_until_us() {
            // Too late to know whether others have gone on; as a standby, look again.
            if was_leader {
                self.depose(actions);
            }
            return;
        }
        self.role = Role::Leader(generation);
        if !was_leader {
            actions.push(LeaseAction::Lead(generation));
        }
    }

    fn depose(&mut self, actions: &mut Vec<LeaseAction>) {
        self.role = Role::Deposed;
        actions.push(LeaseAction::Deposed);
    }

    fn may_write(&self, now_us: u64) -> bool {
        let Some(seen) = &self.seen else {
            return false;
        };
        match self.role {
            Role::Leader(_) => true,
            Role::Standby => seen.record.holder.is_empty() || now_us >= seen.since_us + self.config.lease_us,
            Role::Deposed | Role::Released => false,
        }
    }

    fn ask(&mut self, now_us: u64, actions: &mut Vec<LeaseAction>) {
        if matches!(self.role, Role::Deposed | Role::Released) {
            return;
        }
        if let Some((asked, sent_us)) = &mut self.asked {
            if now_us < *sent_us + self.config.timeout_us {
                return;
            }
            let written_us = *sent_us;
            *sent_us = now_us;
            if let Asked::Write { record } = asked {
                *asked = Asked::Doubt { record: record.clone(), sent_us: written_us };
            }
            actions.push(LeaseAction::Read);
            return;
        }
        if now_us < self.next_us {
            return;
        }
        // A standby looks once more before it takes over only in so far as compare-and-swap does: a counter raised meanwhile is a conflict.
        if self.may_write(now_us) {
            self.write(now_us, actions);
        } else {
            self.asked = Some((Asked::Read, now_us));
            actions.push(LeaseAction::Read);
        }
    }

    fn write(&mut self, now_us: u64, actions: &mut Vec<LeaseAction>) {
        let (expected, above, generation) = match &self.seen {
            None => (None, 0, Generation(1)),
            Some(Seen { version, record, .. }) => {
                let generation = if matches!(self.role, Role::Leader(_)) { record.generation } else { record.generation.next() };
                (Some(version.clone()), record.counter, generation)
            }
        };
        let counter = above.max(self.tried) + 1;
        self.tried = counter;
        let holder = if self.releasing { String::new() } else { self.holder.clone() };
        let (endpoint, door, machine) = (self.endpoint.clone(), self.door.clone(), self.machine.clone());
        let record = LeaseRecord { counter, holder, endpoint, door, machine, generation };
        self.asked = Some((Asked::Write { record: record.clone() }, now_us));
        actions.push(LeaseAction::Write { expected, record });
    }
}

#[cfg(test)]
mod tests;
