//! Group commit: one queue and one connection a lane, a run always on the same lane. A lane takes what has gathered while the commit before it
//! was in flight; it waits for more only where a slow host would make many small batches of its work
//! (`core/docs/decisions/0010-a-busy-lane-gathers.md`). Callers are answered after the commit, never before.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::{EngineError, Result};
use super::{Engine, Outbox};
use crate::protocol::errors::Code;
use crate::store::{Effect, RunKey, StoreError, Verdict, Write};

/// What happens with a write's verdict. It gets the write back, to say it again under another epoch or to pass on its parts.
pub type Ack = Box<dyn FnOnce(&Arc<Engine>, Write, Result<Verdict>, &mut Outbox) + Send>;

struct Item {
    write: Write,
    ack: Ack,
}

#[derive(Default)]
pub struct Lane {
    queue: Mutex<VecDeque<Item>>,
    filled: Notify,
}

/// Rows and bytes of one batch at most: beyond it the first waits for the last without any gain.
const MOST_ROWS: usize = 1000;
const MOST_BYTES: usize = 1 << 20;
/// Refusals by a limit somebody configured (57014 and its like) after which that is said instead of tried.
const MOST_REFUSALS: u32 = 20;

/// Runs of a lane from which on small batches are worth avoiding: with fewer, a run's latency is what counts.
const MANY_RUNS: usize = 100;
/// A batch of at least this share of the lane's runs does not wait.
const SHARE: usize = 4;
/// Rows of the batch before which say that the host is busy, not one run alone.
const BUSY: usize = 8;
/// While so many rows come in each pause, waiting gains more than it costs.
const FLOW: usize = 4;
const PAUSE: Duration = Duration::from_millis(1);
const PAUSES: u32 = 10;

fn worth_waiting(last: usize, runs: usize, rows: usize) -> bool {
    last >= BUSY && runs >= MANY_RUNS && rows < runs / SHARE
}

impl Lane {
    fn len(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A host that is slower than the database hands over a few rows at a time, and each commit in flight ends before many have gathered: a
    /// transaction for a handful of rows, paid from the cores the host needs. Its runs wait in its own queue anyway.
    async fn gather(&self, last: usize, runs: usize) {
        let mut rows = self.len();
        for _ in 0..PAUSES {
            if !worth_waiting(last, runs, rows) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
            let now = self.len();
            if now < rows + FLOW {
                return;
            }
            rows = now;
        }
    }

    fn push(&self, item: Item) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        self.filled.notify_one();
    }

    async fn filled(&self) {
        while self.is_idle() {
            self.filled.notified().await;
        }
    }

    pub(super) fn take(&self) -> (Vec<Write>, Vec<Ack>) {
        let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let most = q.len().min(MOST_ROWS);
        let (mut writes, mut acks, mut bytes) = (Vec::with_capacity(most), Vec::with_capacity(most), 0);
        while let Some(item) = q.front() {
            let size = size(&item.write);
            if !writes.is_empty() && (writes.len() >= MOST_ROWS || bytes + size > MOST_BYTES) {
                break;
            }
            bytes += size;
            if let Some(item) = q.pop_front() {
                writes.push(item.write);
                acks.push(item.ack);
            }
        }
        (writes, acks)
    }

    pub fn is_idle(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Start(run) => run.input.data.len(),
        Write::Step { step, .. } => {
            let effects = step.effects.iter().map(|e| match e {
                Effect::Send(m) => m.value.data.len(),
                Effect::SetEvent { value, .. } => value.data.len(),
                Effect::StartChild(run) => run.input.data.len(),
                Effect::Consume { .. } | Effect::CloseWait | Effect::CloseWaitOf(_) => 0,
            });
            step.output.data.len() + effects.sum::<usize>()
        }
        Write::Attempt { error, .. } | Write::RetryRun { error, .. } => error.data.len(),
        Write::Outcome { value, then, .. } => value.data.len() + then.as_ref().map_or(0, |r| r.input.data.len()),
        Write::Send(m) => m.value.data.len(),
        _ => 100,
    }
}

/// The run whose owner wrote this.
fn owned(write: &Write) -> Option<RunKey> {
    match write {
        Write::Start(_) | Write::Send(_) => None,
        Write::Step { run, .. } | Write::Attempt { run, .. } | Write::Wait { run, .. } | Write::Outcome { run, .. } | Write::RetryRun { run, .. } => Some(*run),
        Write::Release { run, .. } | Write::GiveBack { run, .. } | Write::Block { run, .. } => Some(*run),
    }
}

impl Engine {
    pub fn lane_of(&self, run: RunKey) -> usize {
        // The low bits of a UUIDv7 are random, of a UUIDv8 a hash: even either way.
        (run.as_u128() as usize) % self.lanes.len()
    }

    /// Queue a write. Its ack comes with the verdict, after the commit.
    pub fn write(&self, lane: usize, write: Write, ack: Ack) {
        self.lanes[lane].push(Item { write, ack });
    }

    pub(super) async fn run_lane(self: Arc<Self>, index: usize) {
        let mut last = 0;
        loop {
            self.lanes[index].filled().await;
            self.lanes[index].gather(last, self.exec_count() / self.lanes.len()).await;
            let (writes, acks) = self.lanes[index].take();
            last = writes.len();
            self.counters.batch(writes.len());
            crate::failpoint!("engine.lane.before_commit");
            let verdicts = self.commit(index, &writes).await;
            crate::failpoint!("engine.lane.after_commit");
            let mut out = Outbox::default();
            match verdicts {
                Ok(verdicts) => {
                    self.hint_about(&writes, &verdicts);
                    for ((write, ack), verdict) in writes.into_iter().zip(acks).zip(verdicts) {
                        self.acknowledge(ack, write, Ok(verdict), &mut out);
                    }
                }
                Err(e) => {
                    for (write, ack) in writes.into_iter().zip(acks) {
                        self.acknowledge(ack, write, Err(e.clone()), &mut out);
                    }
                }
            }
            out.flush();
        }
    }

    /// A bug in what follows from a verdict ends neither the lane, whose lease would beat on over runs that record nothing more, nor leaves its run waiting for
    /// an answer that is lost: it is tried again, from what is recorded.
    fn acknowledge(self: &Arc<Self>, ack: Ack, write: Write, answer: Result<Verdict>, out: &mut Outbox) {
        let run = owned(&write);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| ack(self, write, answer, out))) {
            let e = EngineError::panicked(panic);
            match run.and_then(|run| self.exec_of(run)) {
                Some(exec) => exec.give_up_end(self, &e, out),
                None => self.log_all("error", e.code.as_str(), &e.message),
            }
        }
    }

    /// The same batch with the same tokens until there is a verdict: an unknown outcome is never reported as a failure.
    async fn commit(self: &Arc<Self>, lane: usize, writes: &[Write]) -> Result<Vec<Verdict>> {
        let (mut failures, mut refusals, mut retry) = (0, 0, false);
        loop {
            let error = match self.store.commit(lane, self.incarnation(), writes, retry).await {
                Ok(verdicts) if verdicts.len() == writes.len() => return Ok(verdicts),
                Ok(verdicts) => return Err(EngineError::new(Code::Internal, format!("{} verdicts for {} writes", verdicts.len(), writes.len()))),
                Err(e) => e,
            };
            match &error {
                StoreError::Rejected { .. } => return Err(error.into()),
                StoreError::Configured(_) => {
                    refusals += 1;
                    if refusals > MOST_REFUSALS {
                        return Err(error.into());
                    }
                }
                StoreError::Unavailable(_) | StoreError::Setup { .. } => self.outage(&error),
                StoreError::Conflict(_) => {}
            }
            retry = true;
            failures += 1;
            tokio::time::sleep(self.back_off(failures)).await;
        }
    }

    /// Jittered, 10 ms doubling to 1 s.
    pub fn back_off(&self, failures: u32) -> Duration {
        let full = 10.0 * f64::from(1u32 << failures.min(7));
        Duration::from_micros((full.min(1000.0) * 1000.0 * (0.5 + self.random_unit() / 2.0)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;
    use super::*;

    #[test]
    fn a_bug_behind_a_verdict_gives_its_run_back() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let write = Write::GiveBack { run: exec.run, epoch: 1 };
        h.engine.acknowledge(Box::new(|_, _, _, _| panic!("a bug")), write, Ok(Verdict::Committed), &mut Outbox::default());
        assert!(matches!(h.commit()[..], [Write::Release { .. }]));
        assert_eq!(h.engine.exec_count(), 0);
    }

    #[test]
    fn only_a_busy_lane_of_many_runs_waits_and_only_for_a_quarter_of_them() {
        assert!(worth_waiting(20, 500, 20));
        assert!(!worth_waiting(20, 500, 125), "enough have come");
        assert!(!worth_waiting(1, 500, 1), "one run is at work among many that wait for the world");
        assert!(!worth_waiting(20, 50, 5), "a few runs: their latency counts");
    }
}
