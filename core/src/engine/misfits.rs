//! A build that does not fit the runs it finds must not block them all: after a few it leaves alone what other code has begun.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Engine;
use crate::protocol::errors::Code;
use crate::store::{ClaimedRun, Due, RunKey, Verdict, Write};

/// Mismatches within `WITHIN` that a build may have: a change of one workflow's code meets some old runs, a wrong build meets them all.
const MOST: usize = 20;
const WITHIN: Duration = Duration::from_secs(60);
/// What is left alone can be claimed again after so long, ...
const PUT_BACK_MS: i64 = 10_000;
/// ... and each run a little later than the one before, so that they do not come back as one.
const APART_MS: i64 = 20;

#[derive(Default)]
pub struct Misfits {
    recent: Mutex<VecDeque<Instant>>,
    /// For the rest of this process: the fixed build is another one.
    tripped: AtomicBool,
    put_back: std::sync::atomic::AtomicI64,
}

impl Misfits {
    /// One more, at `now`. True: this was the one too many.
    fn another(&self, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.front().is_some_and(|at| now.saturating_duration_since(*at) >= WITHIN) {
            recent.pop_front();
        }
        recent.push_back(now);
        recent.len() > MOST && !self.tripped.swap(true, Ordering::Relaxed)
    }

    /// This build takes on no run that has a history.
    fn tripped(&self) -> bool {
        self.tripped.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// A run does not fit this build. True: it is to be put back, not blocked.
    pub fn misfit(&self, code: Code) -> bool {
        if !matches!(code, Code::Mismatch | Code::Reordered) {
            return false;
        }
        if self.misfits.another(Instant::now()) {
            self.log_all(
                "error",
                code.as_str(),
                &format!(
                    "Build \"{}\" does not fit the runs it finds: more than {MOST} were blocked within a minute. This process leaves alone what other code has begun; new runs go on. Deploy the fix, or roll back: either takes all of them on.",
                    self.config.version
                ),
            );
        }
        self.misfits.tripped()
    }

    /// Whether this run is one that this build, having met too many misfits, leaves to another.
    pub fn leaves_alone(&self, run: &ClaimedRun) -> bool {
        self.misfits.tripped() && !run.steps.is_empty()
    }

    /// Put a misfit back for a while; `done` when that is in the database, or fenced.
    pub fn put_misfit_back(self: &Arc<Self>, run: RunKey, epoch: i32, inbox: i32, done: impl FnOnce(&Arc<Engine>) + Send + 'static) {
        let turn = self.misfits.put_back.fetch_add(1, Ordering::Relaxed) % 500;
        self.put_back(run, epoch, inbox, PUT_BACK_MS + turn * APART_MS, done);
    }

    /// Give a run of ours up, to be claimable again `after_ms` from now; `done` when that is in the database, or fenced.
    pub fn put_back(self: &Arc<Self>, run: RunKey, epoch: i32, inbox: i32, after_ms: i64, done: impl FnOnce(&Arc<Engine>) + Send + 'static) {
        let write = Write::Release { run, epoch, inbox, due: Some(Due::After(after_ms)) };
        self.write(
            self.lane_of(run),
            write,
            Box::new(move |engine, _, answer, _| {
                // Something has come for it meanwhile: whoever claims it next will see that.
                if matches!(answer, Ok(Verdict::Changed { .. })) {
                    engine.give_back(run, epoch);
                }
                if matches!(answer, Ok(Verdict::Fenced)) {
                    // A cancel came in between: still ours, and to clean up here.
                    engine.spawn(|engine| async move { engine.reconcile().await });
                }
                done(engine);
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_first_within_a_minute_is_one_too_many_and_said_once() {
        let (misfits, now) = (Misfits::default(), Instant::now());
        assert!((0..20).all(|_| !misfits.another(now)));
        assert!(!misfits.another(now + WITHIN), "those of a minute ago do not count");
        assert!((0..19).all(|_| !misfits.another(now + WITHIN)));
        assert!(!misfits.tripped());
        assert!(misfits.another(now + WITHIN) && misfits.tripped());
        assert!(!misfits.another(now + WITHIN));
        assert!(misfits.tripped());
    }
}
