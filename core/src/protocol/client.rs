//! A client: one completion queue of one event loop or thread environment, with a coalesced wake-up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::ops::event;

/// Tokens from here on are for `wait`: their events never come out of a drain, so no dispatcher thread can take one
/// between a thread's `submit` and its `wait`.
pub const FIRST_WAITED_TOKEN: u64 = 1 << 52;

/// Event kind flag: call `turn` after one turn of the loop.
pub const TURN: u32 = 256;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub token: u64,
    pub kind: u32,
    pub frame: Vec<u8>,
}

impl Event {
    /// It is the answer to what the host asked under its token.
    fn answers(&self) -> bool {
        matches!(self.kind & (TURN - 1), event::COMPLETED | event::FAILED)
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    waited: HashMap<u64, Event>,
    /// Threads parked for one token each: an event wakes the one it is for, not a thousand.
    waiting: HashMap<u64, Thread>,
    /// Threads inside `drain`. A loop that watches the fd has none, and to notify nobody is a system call all the same.
    draining: usize,
    cancelled: Cancelled,
}

/// A batch ends with the event that goes beyond this: the host gets it as one block of memory.
const BATCH_BYTES: usize = 8 << 20;

impl Queue {
    fn take(&mut self, max: usize) -> Vec<Event> {
        let (mut n, mut bytes) = (0, 0);
        while n < max && bytes < BATCH_BYTES && n < self.events.len() {
            bytes += self.events[n].frame.len();
            n += 1;
        }
        self.events.drain(..n).collect()
    }
}

/// Tokens whose events are to be dropped. What an execution waited for when it ended is never answered, so only the newest are kept: an event of an older
/// one would be ignored by the host, which waits for it no more.
#[derive(Default)]
struct Cancelled {
    tokens: HashSet<u64>,
    order: VecDeque<u64>,
}

const CANCELLED_KEPT: usize = 4096;

impl Cancelled {
    fn insert(&mut self, token: u64) {
        self.tokens.insert(token);
        self.order.push_back(token);
        if self.order.len() > CANCELLED_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }

    /// True for the answer to a token that was given up. Other events carry the number of an execution, which may be the same.
    fn takes(&mut self, event: &Event) -> bool {
        event.answers() && !self.tokens.is_empty() && self.tokens.remove(&event.token)
    }
}

/// How a host is woken that has a way of its own for it: called by whichever thread adds to an empty queue, so it must return at once and enter no host code.
pub type Waker = Box<dyn Fn() + Send + Sync>;

pub struct Client {
    pub ordered: bool,
    queue: Mutex<Queue>,
    arrived: Condvar,
    wake: OwnedFd,
    waker: OnceLock<Waker>,
}

impl Client {
    pub fn new(ordered: bool) -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Client { ordered, queue: Mutex::default(), arrived: Condvar::new(), wake, waker: OnceLock::new() })
    }

    /// In place of the file descriptor and of whoever waits in `drain`. Set before the first event; a second one is ignored.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    fn wake_host(&self) {
        if let Some(waker) = self.waker.get() {
            return waker();
        }
        // The counter saturates only after 2^64 wake-ups nobody read: the fd is readable then, which is all it must be.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn wake_fd(&self) -> i32 {
        self.wake.as_raw_fd()
    }

    /// Take the wake-up back; before draining, so that none is lost.
    pub fn clear_wake(&self) {
        let mut count = [0u8; 8];
        // EAGAIN: nobody woke us; nothing to clear.
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    /// Queue events; one wake-up for all of them, and none while the host has not yet drained the last ones.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut q = self.lock();
        let was_empty = q.events.is_empty();
        for event in events {
            if q.cancelled.takes(&event) {
                continue;
            }
            if event.answers() && event.token >= FIRST_WAITED_TOKEN {
                if let Some(thread) = q.waiting.remove(&event.token) {
                    thread.unpark();
                }
                q.waited.insert(event.token, event);
            } else {
                q.events.push_back(event);
            }
        }
        let wake = was_empty && !q.events.is_empty();
        let drained = q.draining > 0;
        drop(q);
        if wake {
            self.wake_host();
        }
        if wake && drained {
            self.arrived.notify_all();
        }
    }

    pub fn try_drain(&self, max: usize) -> Vec<Event> {
        let mut q = self.lock();
        let batch = q.take(max);
        let more = !q.events.is_empty();
        drop(q);
        if more {
            self.wake_host();
        }
        batch
    }

    pub fn drain(&self, max: usize, timeout: Duration) -> Vec<Event> {
        let deadline = Instant::now() + timeout;
        let mut q = self.lock();
        while q.events.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                return Vec::new();
            };
            q.draining += 1;
            q = self.arrived.wait_timeout(q, left).unwrap_or_else(PoisonError::into_inner).0;
            q.draining -= 1;
        }
        q.take(max)
    }

    pub fn wait(&self, token: u64, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut q = self.lock();
            if let Some(event) = q.waited.remove(&token) {
                q.waiting.remove(&token);
                return Some(event);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                q.waiting.remove(&token);
                return None;
            };
            q.waiting.insert(token, thread::current());
            drop(q);
            // A permit left over from before only makes the loop look once more.
            thread::park_timeout(left);
        }
    }

    /// Forget a token: its event is dropped, whether it is here already or still to come.
    pub fn cancel(&self, token: u64) {
        let mut q = self.lock();
        if q.waited.remove(&token).is_none() {
            q.cancelled.insert(token);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(token: u64) -> Event {
        Event { token, kind: event::COMPLETED, frame: vec![] }
    }

    #[test]
    fn a_waker_of_the_hosts_own_is_called_once_for_many_events_and_again_after_a_partial_drain() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        let c = Client::new(true).unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let counted = woken.clone();
        c.set_waker(Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        c.push_all((1..=5).map(event));
        c.push_all([event(6)]);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert_eq!(c.try_drain(4).len(), 4);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!(c.try_drain(4).len(), 2);
        c.push_all([event(7)]);
        assert_eq!(woken.load(Ordering::SeqCst), 3);
        // Nothing for a file descriptor nobody reads.
        let mut count = [0u8; 8];
        assert!(rustix::io::read(&c.wake, &mut count).is_err());
    }

    #[test]
    fn one_wake_up_for_many_events_and_again_after_a_partial_drain() {
        let c = Client::new(true).unwrap();
        c.push_all((1..=5).map(event));
        c.push_all([event(6)]);
        let mut count = [0u8; 8];
        rustix::io::read(&c.wake, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert_eq!(c.try_drain(4).len(), 4);
        rustix::io::read(&c.wake, &mut count).unwrap();
        assert_eq!(c.try_drain(4).len(), 2);
        assert!(rustix::io::read(&c.wake, &mut count).is_err());
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_and_holds_one_event_at_least() {
        let c = Client::new(true).unwrap();
        c.push_all((1..=4).map(|token| Event { frame: vec![0; BATCH_BYTES / 2 + 1], ..event(token) }));
        assert_eq!(c.try_drain(100).len(), 2);
        assert_eq!(c.drain(100, Duration::ZERO).len(), 2);
        c.push_all([Event { frame: vec![0; 2 * BATCH_BYTES], ..event(5) }]);
        assert_eq!(c.try_drain(100).len(), 1);
    }

    #[test]
    fn a_waited_token_never_comes_out_of_a_drain_and_a_cancelled_one_not_at_all() {
        let c = Client::new(false).unwrap();
        c.cancel(7);
        c.push_all([event(7), event(FIRST_WAITED_TOKEN + 1), event(8)]);
        assert_eq!(c.drain(10, Duration::from_secs(1)), vec![event(8)]);
        assert_eq!(c.wait(FIRST_WAITED_TOKEN + 1, Duration::from_secs(1)), Some(event(FIRST_WAITED_TOKEN + 1)));
        assert_eq!(c.wait(FIRST_WAITED_TOKEN + 1, Duration::ZERO), None);
    }

    /// A run that was claimed and whose `run_ready` went with a token of that number was owned for good and executed by nobody.
    #[test]
    fn a_cancelled_token_takes_only_its_answer_not_the_events_of_an_execution_of_that_number() {
        let c = Client::new(true).unwrap();
        c.cancel(7);
        let told = [event::RUN_READY, event::STOP, event::SIGNAL].map(|kind| Event { token: 7, kind, frame: vec![] });
        c.push_all(told.clone());
        assert_eq!(c.try_drain(10), told);
        c.push_all([Event { token: 7, kind: TURN | event::COMPLETED, frame: vec![] }]);
        assert!(c.try_drain(10).is_empty());
    }

    #[test]
    fn tokens_that_are_never_answered_do_not_pile_up() {
        let c = Client::new(true).unwrap();
        (0..3 * CANCELLED_KEPT as u64).for_each(|token| c.cancel(token));
        assert!(c.lock().cancelled.tokens.len() <= CANCELLED_KEPT);
        c.push_all([event(3 * CANCELLED_KEPT as u64 - 1)]);
        assert!(c.try_drain(10).is_empty(), "the newest are remembered");
    }
}
