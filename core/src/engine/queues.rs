//! What this process knows of the queues: rows of the store, read at launch and whenever a tick says they changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::error::{EngineError, Result};
use super::{Engine, identity};
use crate::protocol::errors::Code;
use crate::store::Queue;

#[derive(Default)]
pub struct Queues {
    known: RwLock<HashMap<String, Queue>>,
    pub version: AtomicI64,
}

impl Queues {
    pub fn replace(&self, queues: Vec<Queue>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = queues.into_iter().map(|q| (q.name.clone(), q)).collect();
    }

    pub fn remember(&self, queue: Queue) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(queue.name.clone(), queue);
    }

    pub fn get(&self, name: &str) -> Option<Queue> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// No limit, no rate, no pause: a start may be inserted as claimed. The empty name is "no queue".
    pub fn is_free(&self, name: &str) -> bool {
        name.is_empty()
            || self.get(name).is_some_and(|q| !q.paused && q.limit.is_none() && q.worker_limit.is_none() && q.key_limit.is_none() && q.rate.is_none())
    }
}

impl Engine {
    pub fn serves_queue(&self, name: &str) -> bool {
        name.is_empty() || self.config.queues.as_ref().is_none_or(|served| served.iter().any(|q| q == name))
    }

    /// What is parked takes nothing of its queue's worker limit, and nobody else tells that there is room.
    pub fn parked_in(&self, queue: &str) {
        if !queue.is_empty() && self.queues.get(queue).is_some_and(|queue| queue.worker_limit.is_some()) {
            self.claims.look();
        }
    }

    pub async fn refresh_queues(&self) -> Result<()> {
        let queues = self.within_budget(|| self.store.queues()).await?;
        self.queues.replace(queues);
        self.served.changed();
        Ok(())
    }

    /// At launch, behind the queues its program declares: a worker of a queue that is not there serves nothing and would say nothing. Nearly the name of one:
    /// a mistyping. Any other may be made later, by another program.
    pub async fn check_served(&self) -> Result<()> {
        let served = self.config.queues.as_deref().unwrap_or_default();
        if served.iter().all(|name| self.queues.get(name).is_some()) {
            return Ok(());
        }
        self.refresh_queues().await?;
        let names = self.queues.names();
        let missing: Vec<&String> = served.iter().filter(|name| self.queues.get(name).is_none()).collect();
        if let Some(name) = missing.iter().find(|name| identity::meant(name, names.iter().map(String::as_str)).is_some()) {
            return Err(self.unknown_queue(name));
        }
        if !missing.is_empty() {
            let listed = missing.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            self.log_all(
                "warning",
                Code::UnknownQueue.as_str(),
                &format!("nobody has made the queue(s) {listed}: this worker serves nothing of them until somebody does"),
            );
        }
        Ok(())
    }

    /// The error for a queue nobody created.
    pub fn known_queue(&self, name: &str) -> Result<()> {
        if name.is_empty() || self.queues.get(name).is_some() {
            return Ok(());
        }
        Err(self.unknown_queue(name))
    }

    pub fn unknown_queue(&self, name: &str) -> EngineError {
        let names = self.queues.names();
        let near = identity::nearest(name, names.iter().map(String::as_str)).map_or(String::new(), |n| format!(" Did you mean \"{n}\"?"));
        EngineError::new(Code::UnknownQueue, format!("There is no queue \"{name}\".{near} Declare it before launch, or make it now as an operator."))
    }

    /// A tick has seen another queue version.
    pub async fn queues_moved(&self, version: i64) {
        if self.queues.version.swap(version, Ordering::Relaxed) != version {
            if let Err(e) = self.refresh_queues().await {
                self.queues.version.store(-1, Ordering::Relaxed);
                self.log_all("warning", e.code.as_str(), &e.message);
            }
            self.claims.look();
        }
    }
}
