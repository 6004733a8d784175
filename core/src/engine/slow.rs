//! Steps that run for long. Only the process that executes one knows of it, so it notes that in the store, once: whoever asks elsewhere is told too.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Engine;
use crate::run::exec::{Exec, Phase};
use crate::store::{RunKey, SlowStep};

/// From when on a running step is worth a line of status.
const SLOW: Duration = Duration::from_secs(300);
/// Every execution is looked at so often; one that is noted at each tick, for its step may have ended.
const LOOK: Duration = Duration::from_secs(30);
/// Of one run, those that have been running longest.
const MOST: usize = 8;

/// The run's epoch, and when each of its steps began: what makes a note another than the one before.
type Noted = (i32, Vec<Instant>);

#[derive(Default)]
pub struct Slow {
    /// What stands in the store of this process.
    noted: Mutex<HashMap<RunKey, Noted>>,
    looked: Mutex<Option<Instant>>,
    writing: AtomicBool,
}

struct Note {
    run: RunKey,
    noted: Noted,
    steps: Vec<SlowStep>,
}

fn slow_steps(exec: &Exec, now: Instant) -> (Noted, Vec<SlowStep>) {
    let st = exec.lock();
    let running = st.calls.values().filter(|call| matches!(call.phase, Phase::Running));
    let mut slow: Vec<_> = running.filter(|call| now.saturating_duration_since(call.started) >= SLOW).collect();
    slow.sort_by_key(|call| call.started);
    slow.truncate(MOST);
    let steps = slow.iter().map(|call| {
        let running_ms = now.saturating_duration_since(call.started).as_millis() as i64;
        SlowStep { name: call.site.name.to_string(), location: call.site.location.to_string(), running_ms }
    });
    ((st.epoch, slow.iter().map(|call| call.started).collect()), steps.collect())
}

fn line(step: &SlowStep) -> String {
    format!("step \"{}\" ({}) has been running for {} min", step.name, step.location, step.running_ms / 60_000)
}

impl Slow {
    fn noted(&self) -> std::sync::MutexGuard<'_, HashMap<RunKey, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every execution is to be looked at now.
    fn look_is_due(&self, now: Instant) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK);
        if due {
            *looked = Some(now);
        }
        due
    }

    fn keep(&self, note: Note) {
        if note.steps.is_empty() {
            self.noted().remove(&note.run);
        } else {
            self.noted().insert(note.run, note.noted);
        }
    }
}

impl Engine {
    /// A line each for status. `elsewhere`: as another process has noted them.
    pub(super) fn slow_lines(&self, run: RunKey, elsewhere: &[SlowStep]) -> Vec<String> {
        let steps = self.exec_of(run).map(|exec| slow_steps(&exec, Instant::now()).1);
        steps.as_deref().unwrap_or(elsewhere).iter().map(line).collect()
    }

    /// At a tick.
    pub(super) fn note_slow_steps(self: &Arc<Self>) {
        let now = Instant::now();
        let all = self.slow.look_is_due(now);
        if (!all && self.slow.noted().is_empty()) || self.slow.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.spawn(move |engine| async move {
            for note in engine.slow_changes(all, now) {
                // What cannot be written now is written at the next look.
                if engine.store.note_slow(note.run, note.noted.0, &note.steps).await.is_ok() {
                    engine.slow.keep(note);
                }
            }
            engine.slow.writing.store(false, Ordering::Release);
        });
    }

    /// What is no longer as it is noted.
    fn slow_changes(&self, all: bool, now: Instant) -> Vec<Note> {
        let before = self.slow.noted().clone();
        let execs = if all { self.all_execs() } else { before.keys().filter_map(|run| self.exec_of(*run)).collect() };
        let here: HashSet<RunKey> = execs.iter().map(|exec| exec.run).collect();
        let cleared = |run: RunKey, noted: &Noted| Note { run, noted: noted.clone(), steps: Vec::new() };
        let mut changes: Vec<Note> = before.iter().filter(|(run, _)| !here.contains(run)).map(|(run, noted)| cleared(*run, noted)).collect();
        for exec in execs {
            let (noted, steps) = slow_steps(&exec, now);
            match before.get(&exec.run) {
                Some(old) if steps.is_empty() => changes.push(cleared(exec.run, old)),
                Some(old) if *old == noted => {}
                None if steps.is_empty() => {}
                _ => changes.push(Note { run: exec.run, noted, steps }),
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outbox;
    use super::super::by_hand::{ByHand, asked};
    use super::*;
    use crate::protocol::ops::kind;
    use crate::run::finish::Finished;

    /// The look at this time, with all of it written.
    fn look(h: &ByHand, all: bool, now: Instant) -> Vec<(i32, Vec<String>)> {
        let changes = h.engine.slow_changes(all, now);
        let shown = changes.iter().map(|note| (note.noted.0, note.steps.iter().map(line).collect())).collect();
        changes.into_iter().for_each(|note| h.engine.slow.keep(note));
        shown
    }

    #[test]
    fn a_step_over_five_minutes_is_noted_once_and_forgotten_when_it_ends() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        exec.begin_step(&h.engine, asked("", 1, kind::STEP, "pay"), &mut Outbox::default()).unwrap();
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(look(&h, true, after(299)), []);
        assert_eq!(look(&h, false, after(301)), [], "only what is noted is looked at in between");
        assert_eq!(look(&h, true, after(421)), [(1, vec!["step \"pay\" (w.rs:1) has been running for 7 min".to_owned()])]);
        assert_eq!(look(&h, true, after(600)), [], "it is noted");
        exec.lock().epoch = 2;
        assert_eq!(look(&h, false, after(601)).len(), 1, "a note counts in its epoch");
        // What is taken away is what stands there, whatever has happened since.
        exec.lock().epoch = 3;
        let done = Finished { branch: "", seq: 0, attempt: 1, failed: false, output: b"1", retryable: false, stopped: false, token: 2 };
        exec.finish_step(&h.engine, done, &mut Outbox::default());
        assert_eq!(look(&h, false, after(602)), [(2, vec![])]);
        assert_eq!(look(&h, true, after(603)), []);
    }

    #[test]
    fn the_longest_of_many_are_noted_and_none_of_a_run_that_has_gone() {
        let h = ByHand::open(true);
        let exec = h.claim(|_| {});
        for n in 0..MOST + 2 {
            exec.begin_step(&h.engine, asked("", n as u64, kind::STEP, &format!("s{n}")), &mut Outbox::default()).unwrap();
        }
        let noted = look(&h, true, Instant::now() + SLOW);
        assert!(noted[0].1.len() == MOST && noted[0].1[0].contains("\"s0\""), "{noted:?}");
        h.engine.forget(&exec);
        assert_eq!(look(&h, false, Instant::now() + SLOW), [(1, vec![])]);
    }

    #[test]
    fn what_another_process_has_noted_is_told() {
        let h = ByHand::open(false);
        let noted = SlowStep { name: "pay".into(), location: "pay.py:7".into(), running_ms: 421_000 };
        assert_eq!(h.engine.slow_lines(uuid::Uuid::now_v7(), &[noted]), ["step \"pay\" (pay.py:7) has been running for 7 min"]);
    }
}
