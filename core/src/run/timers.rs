//! Timers of parked calls: one ordered map and one task for the whole process, so that a wait costs bytes, not a task.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::history::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Wait,
    BackOff,
    /// Of this attempt.
    Timeout(i32),
}

pub struct Timer {
    pub exec: u64,
    pub place: Place,
    pub due: Due,
}

#[derive(Default)]
struct Queue {
    next_id: u64,
    entries: BTreeMap<(Instant, u64), Timer>,
    /// Where the timers of an execution's calls stand, so that what has ended leaves nothing behind. By call: one run may hold thousands.
    of_exec: HashMap<u64, HashMap<Place, Vec<(Instant, u64)>>>,
}

impl Queue {
    fn take(&mut self, key: (Instant, u64)) -> Option<Timer> {
        let timer = self.entries.remove(&key)?;
        if let Some(calls) = self.of_exec.get_mut(&timer.exec) {
            if let Some(keys) = calls.get_mut(&timer.place) {
                keys.retain(|k| *k != key);
                if keys.is_empty() {
                    calls.remove(&timer.place);
                }
            }
            if calls.is_empty() {
                self.of_exec.remove(&timer.exec);
            }
        }
        Some(timer)
    }
}

#[derive(Default)]
pub struct Timers {
    queue: Mutex<Queue>,
    earlier: Notify,
}

/// Far enough for any wait, near enough for `Instant`: longer ones are released to the database long before.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Timers {
    pub fn after(&self, ms: i64, exec: u64, place: &Place, due: Due) {
        let at = Instant::now() + Duration::from_millis(ms.max(0) as u64).min(LONGEST);
        let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let first = q.entries.first_key_value().is_none_or(|((first, _), _)| at < *first);
        q.next_id += 1;
        let id = q.next_id;
        q.entries.insert((at, id), Timer { exec, place: place.clone(), due });
        q.of_exec.entry(exec).or_default().entry(place.clone()).or_default().push((at, id));
        drop(q);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Timers of an execution that has gone.
    pub fn forget(&self, exec: u64) {
        let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for key in q.of_exec.remove(&exec).into_iter().flatten().flat_map(|(_, keys)| keys) {
            q.entries.remove(&key);
        }
    }

    /// Timers of a call that has its verdict, or whose wait is over before its time.
    pub fn forget_call(&self, exec: u64, place: &Place) {
        let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(calls) = q.of_exec.get_mut(&exec) else { return };
        let keys = calls.remove(place).unwrap_or_default();
        if calls.is_empty() {
            q.of_exec.remove(&exec);
        }
        for key in keys {
            q.entries.remove(&key);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        let q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(q.entries.len(), q.of_exec.values().flat_map(HashMap::values).map(Vec::len).sum::<usize>());
        q.entries.len()
    }

    /// Waits until some are due and takes them.
    pub async fn due(&self) -> Vec<Timer> {
        loop {
            let next = {
                let mut q = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let mut due = Vec::new();
                while let Some(key) = q.entries.first_key_value().map(|(k, _)| *k).filter(|(at, _)| *at <= now) {
                    due.extend(q.take(key));
                }
                if !due.is_empty() {
                    return due;
                }
                q.entries.first_key_value().map(|((at, _), _)| *at)
            };
            match next {
                Some(at) => {
                    // Cancelled by an earlier timer only; the map is looked at again either way.
                    let _ = tokio::time::timeout_at(at.into(), self.earlier.notified()).await;
                }
                None => self.earlier.notified().await,
            }
        }
    }
}
