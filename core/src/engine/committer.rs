//! Group commit: one queue and one connection a lane, a run always on the same lane. A lane takes what has gathered while the commit before it
//! was in flight; there is no linger. Callers are answered after the commit, never before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::{EngineError, Result};
use super::{Engine, Outbox};
use crate::protocol::errors::Code;
use crate::store::{Effect, StoreError, Verdict, Write};

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

impl Lane {
    fn push(&self, item: Item) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        self.filled.notify_one();
    }

    async fn take(&self) -> (Vec<Write>, Vec<Ack>) {
        loop {
            {
                let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if !q.is_empty() {
                    let (mut writes, mut acks, mut bytes) = (Vec::new(), Vec::new(), 0);
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
                    return (writes, acks);
                }
            }
            self.filled.notified().await;
        }
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
                Effect::Consume { .. } | Effect::CloseWait => 0,
            });
            step.output.data.len() + effects.sum::<usize>()
        }
        Write::Attempt { error, .. } | Write::RetryRun { error, .. } => error.data.len(),
        Write::Outcome { value, then, .. } => value.data.len() + then.as_ref().map_or(0, |r| r.input.data.len()),
        Write::Send(m) => m.value.data.len(),
        _ => 100,
    }
}

impl Engine {
    pub fn lane_of(&self, run: crate::store::RunKey) -> usize {
        // The low bits of a UUIDv7 are random, of a UUIDv8 a hash: even either way.
        (run.as_u128() as usize) % self.lanes.len()
    }

    /// Queue a write. Its ack comes with the verdict, after the commit.
    pub fn write(&self, lane: usize, write: Write, ack: Ack) {
        self.lanes[lane].push(Item { write, ack });
    }

    pub(super) async fn run_lane(self: Arc<Self>, index: usize) {
        loop {
            let (writes, acks) = self.lanes[index].take().await;
            self.counters.batch(writes.len());
            crate::failpoint!("engine.lane.before_commit");
            let verdicts = self.commit(index, &writes).await;
            crate::failpoint!("engine.lane.after_commit");
            let mut out = Outbox::default();
            match verdicts {
                Ok(verdicts) => {
                    self.hint_about(&writes, &verdicts);
                    for ((write, ack), verdict) in writes.into_iter().zip(acks).zip(verdicts) {
                        ack(&self, write, Ok(verdict), &mut out);
                    }
                }
                Err(e) => {
                    for (write, ack) in writes.into_iter().zip(acks) {
                        ack(&self, write, Err(e.clone()), &mut out);
                    }
                }
            }
            out.flush();
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
