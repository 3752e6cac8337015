//! The one swap in flight (EPOCHS rule 3): sent, and on any answer but *stored* read back, until it is known what became of it. Its bytes never change.
use super::{
    action::Action,
    attempt::Computed,
    config::CoordinatorConfig,
    event::{ManifestAnswer, SwapReply},
};
use crate::{
    ids::{Nonce, Version},
    manifest::Manifest,
};

#[derive(Debug)]
pub(super) struct Swap {
    pub expected: Version,
    pub manifest: Box<Manifest>,
    pub purpose: Purpose,
    pub started_us: u64,
    step: Step,
    failures: u32,
    /// What the store said last instead of an answer.
    message: Option<String>,
}

#[derive(Debug)]
pub(super) enum Purpose {
    /// The first one of a coordinator, to its generation.
    TakeOver,
    Record(Box<Computed>),
    /// Publish positions, refused rows, the job's life.
    Update,
}

#[derive(Debug)]
enum Step {
    Sent {
        since_us: u64,
    },
    Reading {
        request: Nonce,
        since_us: u64,
    },
    /// Before reading again.
    Resting {
        until_us: u64,
    },
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Verdict {
    Pending,
    Stored(Version),
    /// Somebody else has written: the object is now this.
    Foreign(Version, Box<Manifest>),
    Gone,
}

impl Swap {
    pub fn send(expected: Version, manifest: Manifest, purpose: Purpose, now_us: u64) -> (Self, Action) {
        let manifest = Box::new(manifest);
        let action = Action::Swap { expected: expected.clone(), manifest: manifest.clone() };
        let step = Step::Sent { since_us: now_us };
        (Self { expected, manifest, purpose, started_us: now_us, step, failures: 0, message: None }, action)
    }

    /// The store has failed to answer clearly more than once.
    pub fn is_troubled(&self) -> bool {
        self.failures > 1
    }

    /// In what words, where there are any.
    pub fn trouble(&self) -> Option<&str> {
        self.message.as_deref().filter(|_| self.is_troubled())
    }

    pub fn is_record(&self) -> bool {
        matches!(self.purpose, Purpose::Record(_))
    }

    pub fn replied(&mut self, nonce: &Nonce, reply: SwapReply, now_us: u64, config: &CoordinatorConfig) -> Verdict {
        if *nonce != self.manifest.nonce {
            return Verdict::Pending;
        }
        match reply {
            // Believed at any step: it names our nonce.
            SwapReply::Stored { version } => return Verdict::Stored(version),
            SwapReply::Unknown { message } => self.message = Some(message),
            SwapReply::Conflict => {}
        }
        if matches!(self.step, Step::Sent { .. }) {
            self.doubt(now_us, config);
        }
        Verdict::Pending
    }

    pub fn read(
        &mut self,
        asked: &Nonce,
        answer: ManifestAnswer,
        now_us: u64,
        config: &CoordinatorConfig,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        // Only the answer to the last question counts: an older one may show the manifest before the present one.
        if !matches!(&self.step, Step::Reading { request, .. } if request == asked) {
            return Verdict::Pending;
        }
        match answer {
            ManifestAnswer::Missing => Verdict::Gone,
            ManifestAnswer::Unknown { message } => {
                self.message = Some(message);
                self.doubt(now_us, config);
                Verdict::Pending
            }
            ManifestAnswer::Found { version, manifest } if manifest.nonce == self.manifest.nonce => {
                debug_assert!(manifest == self.manifest, "a manifest with our nonce has other content");
                Verdict::Stored(version)
            }
            ManifestAnswer::Found { version, .. } if version == self.expected => {
                self.step = Step::Sent { since_us: now_us };
                actions.push(Action::Resend { nonce: self.manifest.nonce.clone() });
                Verdict::Pending
            }
            ManifestAnswer::Found { version, manifest } => Verdict::Foreign(version, manifest),
        }
    }

    /// Timeouts and pauses. Call it at each event.
    pub fn advance(
        &mut self,
        now_us: u64,
        config: &CoordinatorConfig,
        new_nonce: &mut dyn FnMut() -> Nonce,
        actions: &mut Vec<Action>,
    ) {
        if let Step::Sent { since_us } | Step::Reading { since_us, .. } = self.step
            && now_us >= since_us + config.store_timeout_us
        {
            self.doubt(now_us, config);
        }
        if let Step::Resting { until_us } = self.step
            && now_us >= until_us
        {
            let request = new_nonce();
            self.step = Step::Reading { request: request.clone(), since_us: now_us };
            actions.push(Action::ReadManifest { request });
        }
    }

    pub fn wakeup_us(&self, config: &CoordinatorConfig) -> u64 {
        match self.step {
            Step::Sent { since_us } | Step::Reading { since_us, .. } => since_us + config.store_timeout_us,
            Step::Resting { until_us } => until_us,
        }
    }

    fn doubt(&mut self, now_us: u64, config: &CoordinatorConfig) {
        let pause_us = if self.failures == 0 { 0 } else { config.backoff(self.failures) };
        self.failures += 1;
        self.step = Step::Resting { until_us: now_us + pause_us };
    }
}
