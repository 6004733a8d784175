//! Releasing parked runs: under pressure a run that waits long gives its memory back; a timer or a wake makes it ready for any worker.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::counters::Counters;
use crate::run::exec::{Exec, Phase};
use crate::store::{Due, Verdict, WaitKind, Write};

const LOOK: Duration = Duration::from_millis(200);
/// A wait this near is not worth a release and a replay.
const SETTLED: Duration = Duration::from_millis(50);

impl Engine {
    pub(super) async fn run_releases(self: Arc<Self>) {
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let always = self.config.replay == super::config::Replay::Always;
            if self.exec_count() <= self.config.max_parked && !always {
                continue;
            }
            let mut parked: Vec<_> = self.all_execs().into_iter().filter_map(|e| e.lock().parked_since.map(|since| (since, e.clone()))).collect();
            let surplus = if always { parked.len() } else { parked.len().saturating_sub(self.config.max_parked) };
            if surplus == 0 {
                continue;
            }
            parked.sort_by_key(|(since, _)| *since);
            let mut left = surplus;
            for (since, exec) in parked {
                if left == 0 {
                    break;
                }
                if since.elapsed() >= SETTLED && self.release(&exec, always) {
                    left -= 1;
                }
            }
        }
    }

    /// Ask the database to take this run back. It says no when something woke the run first.
    pub fn release(self: &Arc<Self>, exec: &Arc<Exec>, anyhow: bool) -> bool {
        let mut st = exec.lock();
        if !st.all_waiting() || st.looking.is_some() || st.cancel.is_some() || st.releasing {
            return false;
        }
        let mut due: Option<i64> = None;
        for call in st.calls.values() {
            let Phase::Waiting(wait) = &call.phase else { return false };
            if let Some(ms) = wait.due_in_ms {
                let left = ms - call.started.elapsed().as_millis() as i64;
                due = Some(due.map_or(left, |d: i64| d.min(left)));
            }
        }
        if !anyhow && due.is_some_and(|ms| ms < self.config.release_after_ms) {
            return false;
        }
        let only_sleeps = st.calls.values().all(|c| matches!(&c.phase, Phase::Waiting(w) if w.kind == WaitKind::Sleep));
        debug_assert!(due.is_some() || !only_sleeps);
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

    /// Drain: what waits is released, whatever it waits for.
    pub fn release_all_parked(self: &Arc<Self>) {
        for exec in self.all_execs() {
            self.release(&exec, true);
        }
    }
}
