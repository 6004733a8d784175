//! Releasing parked runs: under pressure a run that waits long gives its memory back; a timer or a wake makes it ready for any worker.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::Counters;
use super::{Engine, Outbox};
use crate::run::exec::{Exec, ExecState, Phase};
use crate::store::{Due, Verdict, WaitKind, Write};

const LOOK: Duration = Duration::from_millis(200);
/// Under pressure the next look comes this soon: what parks meanwhile is released in one batch.
const GATHER: Duration = Duration::from_millis(5);
/// What waits for an answer may get it at once; a release and a replay would be for nothing.
const SETTLED: Duration = Duration::from_millis(50);
/// The same where several paths of a run's code were under way: one of them may be between two calls, and what is released then goes on only when another
/// one's wait is over. Code between calls is to be short; so long a silence is taken for its end.
const SETTLED_BRANCHES: Duration = Duration::from_secs(5);
/// With `replay = "always"`, which is for tests.
const SETTLED_BRANCHES_ALWAYS: Duration = Duration::from_millis(500);
/// So many runs may be on their way out before new ones have to wait. Without a bound memory follows the rate of starts: what comes in at
/// 5,000/s and is released every 200 ms holds a thousand runs too many, and neither the host language nor the allocator gives that back.
const CROWD: i64 = 100;
/// A run that a dead process left here and that waits longer than this without having recorded anything is released: whoever owns nothing is not struck
/// again when this process dies too, and what sleeps for a month would else be blocked by the fifth deploy that goes wrong.
const STRUCK_WAITS_MS: i64 = 10_000;
/// While half of `max_parked` wait long, so many runs at once may be started as already claimed; further ones are ready first and come in pages.
/// A thousand starts in one call would otherwise be a thousand runs in memory before the first of them parks.
const AT_ONCE: i64 = 250;

#[derive(Default)]
pub struct Releases {
    parked: AtomicI64,
    /// Those of the parked that wait long enough to be released.
    releasable: AtomicI64,
    pressed: Notify,
    /// The last look could release nothing of the surplus: new runs do not wait for what does not leave.
    stuck: AtomicBool,
    /// Some of the parked came here from a dead process.
    struck: AtomicBool,
}

impl Releases {
    pub fn parked(&self, by: i64, releasable: bool) {
        self.parked.fetch_add(by, Ordering::Relaxed);
        if releasable {
            self.releasable.fetch_add(by, Ordering::Relaxed);
        }
    }

    fn surplus(&self, max_parked: usize) -> i64 {
        (self.parked.load(Ordering::Relaxed) - max_parked as i64).min(self.releasable.load(Ordering::Relaxed)).max(0)
    }
}

impl Engine {
    pub(super) async fn run_releases(self: Arc<Self>) {
        let always = self.config.replay == super::config::Replay::Always;
        loop {
            // Either way the loop looks.
            if tokio::time::timeout(LOOK, self.releases.pressed.notified()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
            let struck = self.releases.struck.swap(false, Ordering::Relaxed);
            if self.exec_count() <= self.config.max_parked && !always && !struck {
                continue;
            }
            let mut parked: Vec<_> = self.all_execs().into_iter().filter_map(|e| e.lock().parked_since.map(|since| (since, e.clone()))).collect();
            if struck {
                self.release_struck(&parked);
            }
            let surplus = if always { parked.len() } else { parked.len().saturating_sub(self.config.max_parked) };
            if surplus == 0 {
                continue;
            }
            parked.sort_by_key(|(since, _)| *since);
            let (mut left, mut leaving) = (surplus, false);
            for (since, exec) in parked {
                if left == 0 {
                    break;
                }
                let (on_its_way, settled) = {
                    let st = exec.lock();
                    (st.releasing, st.settled(since, always))
                };
                if on_its_way || (settled && self.release(&exec, always)) {
                    leaving = true;
                    left -= 1;
                }
            }
            self.releases.stuck.store(!leaving, Ordering::Relaxed);
        }
    }

    /// A run from a dead process has come to wait before it recorded anything.
    pub fn struck_parked(&self) {
        self.releases.struck.store(true, Ordering::Relaxed);
    }

    fn release_struck(self: &Arc<Self>, parked: &[(Instant, Arc<Exec>)]) {
        for (since, exec) in parked {
            let (leaves, settled) = {
                let st = exec.lock();
                let long = st.earliest_due().is_some_and(|due| due.is_none_or(|ms| ms > STRUCK_WAITS_MS));
                (long && exec.is_struck(&st) && !st.releasing, st.settled(*since, false))
            };
            if leaves && !(settled && self.release(exec, true)) {
                self.struck_parked();
            }
        }
    }

    /// Runs have come to wait, or go on: how many decides whether new ones are let in.
    pub fn parked_changed(&self, by: i64, releasable: bool) {
        self.releases.parked(by, releasable);
        if by < 0 {
            self.claims.slots_freed();
        } else if self.releases.surplus(self.config.max_parked) > CROWD / 2 {
            self.releases.pressed.notify_one();
        }
    }

    /// Whether one more start may be claimed where it is inserted.
    pub(super) fn has_room_at_once(&self) -> bool {
        if self.releases.releasable.load(Ordering::Relaxed) < (self.config.max_parked / 2) as i64 {
            return true;
        }
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner).len();
        (self.exec_count() + starting) as i64 - self.releases.parked.load(Ordering::Relaxed) < AT_ONCE
    }

    /// More runs wait than memory is meant for, and they are on their way out.
    pub(super) fn crowded(&self) -> bool {
        self.releases.surplus(self.config.max_parked) > CROWD && !self.releases.stuck.load(Ordering::Relaxed)
    }

    /// Ask the database to take this run back. It says no when something woke the run first.
    pub fn release(self: &Arc<Self>, exec: &Arc<Exec>, anyhow: bool) -> bool {
        let mut st = exec.lock();
        if !st.all_waiting() || st.looking.is_some() || st.cancel.is_some() || st.releasing {
            return false;
        }
        let Some(due) = st.earliest_due() else { return false };
        if !anyhow && due.is_some_and(|ms| ms < self.config.release_after_ms) {
            return false;
        }
        debug_assert!(due.is_some() || !st.only_sleeps());
        // Code of this run may still go on in between (raw concurrency): once released, the fence refuses what it records.
        st.releasing = true;
        let write = Write::Release { run: exec.run, epoch: st.epoch, inbox: st.inbox, due: due.map(|ms| Due::After(ms.max(0))) };
        drop(st);
        let exec = exec.clone();
        self.write(
            exec.lane,
            write,
            Box::new(move |engine, write, answer, out| match answer {
                Ok(Verdict::Committed) => {
                    exec.stop(&mut exec.lock(), "suspended", "released while it waits; it goes on in a new execution", out);
                    engine.forget(&exec);
                    Counters::add(&engine.counters.released, 1);
                }
                Ok(Verdict::Changed { inbox }) => {
                    let mut st = exec.lock();
                    st.releasing = false;
                    st.inbox = inbox;
                    if exec.is_struck(&st) {
                        engine.struck_parked();
                    }
                    exec.look_at_waits(engine, &mut st);
                }
                Ok(_) => {
                    exec.lock().releasing = false;
                    engine.ask_owner(&exec, Box::new(|_, _| {}));
                }
                Err(e) => {
                    exec.lock().releasing = false;
                    engine.log_all("warning", e.code.as_str(), &e.message);
                    drop(write);
                }
            }),
        );
        true
    }

    /// Drain: what waits is released, whatever it waits for. Where a path of its code may be between two calls, or a failed attempt waits for the next, the
    /// run is given back instead: the next worker replays it, and it comes to wait there, or goes on.
    pub fn release_all_parked(self: &Arc<Self>) {
        for exec in self.all_execs() {
            let mut st = exec.lock();
            if !st.concurrent && st.earliest_due().is_some() {
                drop(st);
                self.release(&exec, true);
            } else if st.all_waiting() && !st.releasing && st.cancel.is_none() {
                let write = Write::GiveBack { run: exec.run, epoch: st.epoch };
                let mut out = Outbox::default();
                exec.stop(&mut st, "drained", "this worker stops; the run goes on elsewhere", &mut out);
                drop(st);
                out.flush();
                self.end_with(&exec, write);
            }
        }
    }
}

impl ExecState {
    /// Whether its code has come to rest, as far as that can be told.
    fn settled(&self, since: Instant, always: bool) -> bool {
        match (self.concurrent, always) {
            (true, false) => since.elapsed() >= SETTLED_BRANCHES,
            (true, true) => since.elapsed() >= SETTLED_BRANCHES_ALWAYS,
            (false, _) => since.elapsed() >= SETTLED || (!always && self.only_sleeps() && !self.handed),
        }
    }

    /// Milliseconds until the first of its waits is over, if any ends by time. None: something here is not a wait.
    pub fn earliest_due(&self) -> Option<Option<i64>> {
        let mut due: Option<i64> = None;
        for call in self.calls.values() {
            let Phase::Waiting(wait) = &call.phase else { return None };
            if let Some(ms) = wait.due_in_ms {
                let left = ms - call.started.elapsed().as_millis() as i64;
                due = Some(due.map_or(left, |d| d.min(left)));
            }
        }
        Some(due)
    }

    fn only_sleeps(&self) -> bool {
        self.calls.values().all(|c| matches!(&c.phase, Phase::Waiting(w) if w.kind == WaitKind::Sleep))
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::{ByHand, asked};
    use super::*;
    use crate::protocol::ops::kind;
    use crate::run::finish::Finished;
    use crate::run::retry::RetryPolicy;

    #[test]
    fn a_drain_gives_back_what_waits_for_its_next_attempt() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let asked = crate::run::begin::Asked { policy: RetryPolicy::default(), ..asked("", 1, kind::STEP, "s") };
        exec.begin_step(&h.engine, asked, &mut Outbox::default()).unwrap();
        let failed = Finished { branch: "", seq: 0, attempt: 1, failed: true, output: b"{}", retryable: true, stopped: false, token: 2 };
        exec.finish_step(&h.engine, failed, &mut Outbox::default());
        h.commit();
        h.engine.release_all_parked();
        assert!(matches!(h.commit()[..], [Write::GiveBack { .. }]));
        assert_eq!(h.engine.exec_count(), 0);
    }
}
