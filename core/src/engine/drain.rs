//! Draining and closing. One drain a process: whoever asks for another while it is under way joins it, and may only bring its end forward. A close that did
//! not wait for it would shut the store under it, and its runs would count as those of a crash.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Engine, Phase};
use crate::protocol::client::Event;
use crate::protocol::ops::event;
use crate::store::WakeHint;

/// What the database gets to take the rest back. After that the lease runs out by itself.
const HAND_OVER: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Drain {
    until: Mutex<Option<Instant>>,
    /// Held by whoever drains; true: it is done. A drain that was given up half-way is done by the next who waits here.
    done: tokio::sync::Mutex<bool>,
}

impl Drain {
    fn end_by(&self, at: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(until.map_or(at, |sooner| sooner.min(at)));
    }

    fn until(&self) -> Instant {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Instant::now)
    }
}

impl Engine {
    /// Stop claiming, let what runs finish or park within the budget, hand over the rest. All of it is done when this returns, whoever has begun it.
    pub async fn drain(self: &Arc<Self>, deadline: Duration) {
        {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            *phase = (*phase).max(Phase::Draining);
        }
        self.draining.end_by(Instant::now() + deadline);
        self.ended.notify_waiters();
        let mut done = self.draining.done.lock().await;
        if *done {
            return;
        }
        loop {
            self.release_all_parked();
            let ended = self.ended.notified();
            let (now, until) = (Instant::now(), self.draining.until());
            if self.exec_count() == 0 || now >= until {
                break;
            }
            // Either way the loop looks again: something ended, more may have come to wait, or somebody is in a greater hurry.
            let _ = tokio::time::timeout_at((now + Duration::from_millis(50)).min(until), ended).await;
        }
        self.stop_all("drained", "this worker stops; the run goes on elsewhere");
        match tokio::time::timeout(HAND_OVER, self.leave()).await {
            Ok(Ok(())) => {}
            // The lease runs out by itself: peers take over then.
            Ok(Err(e)) => self.outage(&e),
            Err(_) => {
                self.log_all("warning", "unavailable", "the database did not answer while closing; this worker's runs go on elsewhere when its lease is out")
            }
        }
        *done = true;
    }

    async fn leave(&self) -> crate::store::Result<()> {
        // A lease that is just being taken is ours, too.
        let _one = self.leasing.lock().await;
        let incarnation = self.lease.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(incarnation) = incarnation {
            self.store.deregister(incarnation).await?;
            // Straight to the store: the task that tells hints may not run again before the end.
            self.store.hint(&[WakeHint::Resync]).await?;
        }
        Ok(())
    }

    /// After this nothing is answered any more.
    pub async fn finish(self: &Arc<Self>) {
        self.closing.store(true, Ordering::Release);
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Closed;
        self.ticks.now();
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner).clone();
        for client in clients.values() {
            client.push_all([Event { token: 0, kind: event::STOPPING, frame: vec![] }]);
        }
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;
    use super::*;

    #[test]
    fn who_asks_during_a_drain_joins_it_and_may_cut_it_short_but_not_put_it_off() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let drain = |budget: Duration| {
            let engine = h.engine.clone();
            runtime.spawn(async move { engine.drain(budget).await })
        };
        let first = drain(Duration::from_secs(3600));
        while h.engine.draining.done.try_lock().is_ok() {
            std::thread::yield_now();
        }
        let later = drain(Duration::from_secs(7200));
        assert!(exec.lock().stopped.is_none());
        runtime.block_on(h.engine.drain(Duration::ZERO));
        assert_eq!((exec.lock().stopped, h.engine.exec_count()), (Some("drained"), 0));
        runtime.block_on(async { (first.await.unwrap(), later.await.unwrap()) });
    }
}
