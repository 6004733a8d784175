//! Names of workflows and steps that are started: which are known, and which look mistyped (`core/docs/decisions/0007-a-name-that-looks-mistyped.md`).

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::{EngineError, Result};
use super::options::RunOptions;
use super::{Engine, Phase, identity};
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
        let name = || !self.knows_workflow(&run.route.workflow) || self.follow_up(run).is_some_and(|next| !self.knows_workflow(&next));
        Unknown { queue, name: !unchecked && name() }
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

    /// The error for a start on a queue nobody created, or under a name that looks mistyped; so does what is to follow it.
    pub fn check_start(&self, run: &NewRun, unchecked: bool) -> Result<()> {
        self.known_queue(&run.route.queue)?;
        if unchecked {
            return Ok(());
        }
        self.check_workflow(&run.route.workflow)?;
        self.follow_up(run).map_or(Ok(()), |next| self.check_workflow(&next).map_err(|e| e.about("on_finish")))
    }

    /// The error for a name that nobody knows and that is nearly one that is known. Any other name nobody knows is left to be learned: the
    /// worker that implements it, of any language, may come later.
    pub fn check_workflow(&self, name: &str) -> Result<()> {
        self.mistyped(name).map_or(Ok(()), |said| {
            let way_out = "A start that is to wait for a worker that does not exist yet must say so (option unchecked).";
            Err(EngineError::new(Code::UnknownWorkflow, format!("{said} {way_out}")))
        })
    }

    /// What a start has named to follow its run; not what launch has looked at.
    fn follow_up(&self, run: &NewRun) -> Option<String> {
        let next = RunOptions::from_text(Some(run.options.as_deref()?)).on_finish;
        let registered = || self.registered(&run.route.workflow).and_then(|r| r.options.on_finish);
        next.filter(|next| self.phase() < Phase::Launched || registered().as_ref() != Some(next))
    }

    /// At launch, when all of them are there: what registered functions name to follow their runs. A run of a mistyped one would wait for ever, once for each.
    pub async fn check_follow_ups(&self) -> Result<()> {
        let registered: Vec<(String, String)> = {
            let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
            registry.iter().filter_map(|(name, r)| Some((name.clone(), r.options.on_finish.clone()?))).collect()
        };
        if registered.iter().all(|(_, next)| self.knows_workflow(next)) {
            return Ok(());
        }
        self.refresh_names().await?;
        match registered.iter().find_map(|(name, next)| Some((name, self.mistyped(next)?))) {
            None => Ok(()),
            Some((name, said)) => {
                let way_out = "A new workflow that is really called so has to be launched, in its own program, before others name it.";
                Err(EngineError::new(Code::UnknownWorkflow, format!("options of \"{name}\": on_finish: {said} {way_out}")))
            }
        }
    }

    fn mistyped(&self, name: &str) -> Option<String> {
        if self.knows_workflow(name) {
            return None;
        }
        let mut known: Vec<String> = self.registry.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        known.extend(self.names.0.read().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let near = identity::meant(name, known.iter().map(String::as_str))?;
        Some(format!("No workflow \"{name}\" is registered here or was ever run by a worker of this database. Did you mean \"{near}\"?"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;
    use super::super::options::StartOptions;
    use super::*;
    use crate::protocol::frame::Writer;

    #[test]
    fn what_is_to_follow_a_run_is_looked_at_like_what_is_started() {
        let h = ByHand::open(false);
        let mut w = Writer::new();
        w.int(1).str("workflow").str("notify");
        h.engine.register(&w.finish()).unwrap();
        let start = |next: &str, unchecked: bool| {
            let options = StartOptions { on_finish: Some(next.into()), ..StartOptions::default() };
            let run = h.engine.new_run("w", None, options, None).unwrap();
            assert_eq!(h.engine.unknown(&run, unchecked) != Unknown::default(), next != "notify" && !unchecked);
            h.engine.check_start(&run, unchecked).map_err(|e| (e.code, e.message))
        };
        let (code, message) = start("notfy", false).unwrap_err();
        assert_eq!(code, Code::UnknownWorkflow);
        assert!(message.starts_with("on_finish: No workflow \"notfy\"") && message.contains("\"notify\""), "{message}");
        for (next, unchecked) in [("notfy", true), ("notify", false), ("another", false)] {
            assert_eq!(start(next, unchecked), Ok(()));
        }
    }
}
