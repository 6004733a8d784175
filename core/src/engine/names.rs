//! Names of workflows and steps that are started: which are known, and which look mistyped (`core/docs/decisions/0007-a-name-that-looks-mistyped.md`).

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::{EngineError, Result};
use super::{Engine, identity};
use crate::protocol::errors::Code;
use crate::store::NewRun;

/// Names the database has heard of: a worker announced them, or a run was started under them.
#[derive(Default)]
pub struct Names(RwLock<HashSet<String>>);

impl Names {
    fn contains(&self, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

/// What starts name that this process has not heard of yet.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    queue: bool,
    name: bool,
}

impl Unknown {
    pub fn or(self, other: Unknown) -> Unknown {
        Unknown { queue: self.queue || other.queue, name: self.name || other.name }
    }
}

impl Engine {
    /// What this worker runs, for those who start by name elsewhere.
    pub async fn announce(&self, workflows: &[String]) -> Result<()> {
        let routes: Vec<_> = workflows.iter().map(|name| identity::route(&self.config.store.namespace, "", name, "")).collect();
        self.within_budget(|| self.store.announce(&routes)).await
    }

    pub fn knows_workflow(&self, name: &str) -> bool {
        self.registered(name).is_some() || self.names.contains(name)
    }

    pub async fn refresh_names(&self) -> Result<()> {
        let names = self.within_budget(|| self.store.workflow_names()).await?;
        *self.names.0.write().unwrap_or_else(PoisonError::into_inner) = names.into_iter().collect();
        Ok(())
    }

    pub fn unknown(&self, run: &NewRun, unchecked: bool) -> Unknown {
        let queue = !run.route.queue.is_empty() && self.queues.get(&run.route.queue).is_none();
        Unknown { queue, name: !unchecked && !self.knows_workflow(&run.route.workflow) }
    }

    /// Go on with starts whose names are known; look in the database before saying that one is not.
    pub fn look_up_then(self: &Arc<Self>, unknown: Unknown, go_on: impl FnOnce(&Arc<Engine>) + Send + 'static) {
        if unknown == Unknown::default() {
            return go_on(self);
        }
        self.spawn(move |engine| async move {
            // An unknown name is the caller's error; a database that does not answer is said by the start itself.
            let queues = if unknown.queue { engine.refresh_queues().await } else { Ok(()) };
            let names = if unknown.name { engine.refresh_names().await } else { Ok(()) };
            if let Err(e) = queues.and(names) {
                engine.log_all("warning", e.code.as_str(), &e.message);
            }
            go_on(&engine);
        });
    }

    /// The error for a start on a queue nobody created, or under a name that looks mistyped.
    pub fn check_start(&self, run: &NewRun, unchecked: bool) -> Result<()> {
        self.known_queue(&run.route.queue)?;
        if unchecked { Ok(()) } else { self.check_workflow(&run.route.workflow) }
    }

    /// The error for a name that nobody knows and that is nearly one that is known. Any other name nobody knows is left to be learned: the
    /// worker that implements it, of any language, may come later.
    pub fn check_workflow(&self, name: &str) -> Result<()> {
        if self.knows_workflow(name) {
            return Ok(());
        }
        let mut known: Vec<String> = self.registry.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        known.extend(self.names.0.read().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        match identity::meant(name, known.iter().map(String::as_str)) {
            None => Ok(()),
            Some(near) => Err(EngineError::new(
                Code::UnknownWorkflow,
                format!(
                    "No workflow \"{name}\" is registered here or was ever run by a worker of this database. Did you mean \"{near}\"? \
                     A start that is to wait for a worker that does not exist yet must say so (option unchecked)."
                ),
            )),
        }
    }
}
