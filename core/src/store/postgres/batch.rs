//! Cuts what the committer hands over into batches that one pass can apply: each run row changes once, each key is written once, and
//! nothing refers to a run that the same batch starts.

use std::collections::HashSet;

use uuid::Uuid;

use crate::key_map::KeySet;
use crate::store::{Effect, NewRun, Position, RunKey, Write};

#[derive(Default)]
struct Seen<'w> {
    /// Runs that left this batch's owner: no later write of theirs may join.
    left: KeySet<RunKey>,
    started: KeySet<RunKey>,
    steps: KeySet<(RunKey, &'w Position)>,
    attempts: KeySet<(RunKey, &'w Position, i32, bool)>,
    waits: KeySet<(RunKey, &'w Position)>,
    messages: HashSet<Uuid>,
    events: HashSet<(RunKey, &'w str)>,
    consumed: HashSet<Uuid>,
    dedups: HashSet<&'w str>,
}

impl<'w> Seen<'w> {
    /// Note the write; false when it must go to the next batch.
    fn admit(&mut self, write: &'w Write) -> bool {
        match write {
            Write::Start(run) => self.start(run),
            Write::Step { run, step, .. } => {
                self.owned(run) && self.steps.insert((*run, &step.at)) && step.effects.iter().all(|effect| self.effect(*run, effect))
            }
            Write::Attempt { run, at, attempt, started, .. } => self.owned(run) && self.attempts.insert((*run, at, *attempt, *started)),
            Write::Wait { run, at, target, .. } => self.owned(run) && target.as_ref().is_none_or(|target| self.known(target)) && self.waits.insert((*run, at)),
            Write::Outcome { run, then, .. } => self.leave(run) && then.as_ref().is_none_or(|then| self.start(then)),
            Write::RetryRun { run, .. } | Write::Release { run, .. } | Write::GiveBack { run, .. } | Write::Block { run, .. } => self.leave(run),
            Write::Send(message) => self.known(&message.to) && self.messages.insert(message.id),
        }
    }

    fn known(&self, run: &RunKey) -> bool {
        !self.started.contains(run)
    }

    fn owned(&self, run: &RunKey) -> bool {
        self.known(run) && !self.left.contains(run)
    }

    fn leave(&mut self, run: &RunKey) -> bool {
        self.known(run) && self.left.insert(*run)
    }

    fn start(&mut self, run: &'w NewRun) -> bool {
        self.started.insert(run.key) && run.dedup.as_ref().is_none_or(|dedup| self.dedups.insert(&dedup.key))
    }

    fn effect(&mut self, run: RunKey, effect: &'w Effect) -> bool {
        match effect {
            Effect::Send(message) => self.known(&message.to) && self.messages.insert(message.id),
            Effect::SetEvent { key, .. } => self.events.insert((run, key)),
            Effect::StartChild(child) => self.start(child),
            Effect::Consume { message } => self.consumed.insert(*message),
            Effect::CloseWait | Effect::CloseWaitOf(_) => true,
        }
    }
}

/// Consecutive parts of `writes`, in order.
pub(super) fn cut(writes: &[Write]) -> Vec<&[Write]> {
    let mut parts = Vec::new();
    let (mut from, mut seen) = (0, Seen::default());
    for (at, write) in writes.iter().enumerate() {
        if !seen.admit(write) {
            parts.push(&writes[from..at]);
            (from, seen) = (at, Seen::default());
            // Alone a write is always admissible, but for one that contradicts itself (an event set twice by one step): it goes alone.
            seen.admit(write);
        }
    }
    parts.push(&writes[from..]);
    parts.retain(|part| !part.is_empty());
    parts
}
