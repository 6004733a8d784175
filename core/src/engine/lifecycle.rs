//! Registering, connecting, launching.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};

use super::error::{EngineError, Result};
use super::options::RegisterOptions;
use super::{Engine, Phase, Registered, Role, identity};
use crate::protocol::errors::Code;
use crate::protocol::frame::{Reader, Writer};
use crate::store::{LAUNCH, SCHEMA_VERSION, StoreError, StoreKind};

impl Engine {
    /// `register`.
    pub fn register(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let mut r = Reader::new(frame);
        let client = r.int()? as u32;
        let kind = r.str()?;
        let name = r.str()?;
        let version = r.opt_str()?.map(str::to_owned);
        let options = r.opt_str()?;
        identity::check_name("a workflow's or step's name", name)?;
        let options = options.map_or_else(|| Ok(RegisterOptions::default()), |text| RegisterOptions::read(&format!("options of \"{name}\""), text))?;
        let is_step = match kind {
            "workflow" => false,
            "step" => true,
            other => return Err(EngineError::new(Code::FrameInvalid, format!("kind must be workflow or step, not {other}"))),
        };
        if self.client(client).is_none() {
            return Err(EngineError::new(Code::FrameInvalid, format!("there is no client {client}")));
        }
        if self.phase() >= Phase::Draining {
            return Err(EngineError::plain(Code::Closed));
        }
        let named = options.slots;
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        if registry.contains_key(name) {
            return Err(EngineError::new(Code::AlreadyRegistered, format!("\"{name}\" is registered already. Give one of the two another name=.")));
        }
        registry.insert(name.to_owned(), Registered { client, is_step, version, options });
        drop(registry);
        self.served.changed();
        let mut all = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let (free, total) = all.entry(client).or_insert_with(|| (Arc::new(AtomicI64::new(self.config.slots)), self.config.slots));
        if let Some(named) = named {
            free.fetch_add(named - *total, Ordering::Relaxed);
            *total = named;
        }
        drop(all);
        if self.phase() == Phase::Launched {
            self.claims.look();
        }
        Ok(vec![])
    }

    /// Reach the database once, bring the schema up where that is allowed, and say what there is to say.
    pub async fn connect(self: &Arc<Self>) -> Result<Option<String>> {
        let _one = self.connecting.lock().await;
        match self.phase() {
            Phase::Opened => {}
            Phase::Closed => return Err(EngineError::plain(Code::Closed)),
            _ => return Ok(None),
        }
        let state = self.store.inspect().await.map_err(first_contact)?;
        match state.version {
            Some(_) if state.min_compatible > SCHEMA_VERSION => {
                return Err(EngineError::new(
                    Code::SchemaTooNew,
                    format!("The schema needs a library that knows version {}; this one knows {SCHEMA_VERSION}. Upgrade this process.", state.min_compatible),
                ));
            }
            Some(version) if version >= SCHEMA_VERSION => {}
            found => {
                let embedded = self.store.kind() == StoreKind::Sqlite || state.database_empty;
                match self.config.auto_migrate {
                    Some(true) => {}
                    None if embedded => {}
                    _ => {
                        let what = if found.is_none() { "is not there" } else { "is old" };
                        return Err(EngineError::new(
                            Code::MigrationNeeded,
                            format!(
                                "Everstep's schema {what}. This database holds other data, so it is changed only when you ask: call migrate(), pass auto_migrate=true, or run the printed SQL as the owner."
                            ),
                        ));
                    }
                }
                self.store.migrate().await.map_err(|e| self.migration_failed(e))?;
            }
        }
        self.check_identity().await?;
        self.refresh_queues().await?;
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Connected;
        for lane in 0..self.lanes.len() {
            self.spawn(move |engine| engine.run_lane(lane));
        }
        self.spawn(|engine| engine.run_awaiters());
        self.spawn(|engine| engine.tell_hints());
        self.spawn(|engine| engine.hear_hints());
        self.spawn(|engine| async move {
            // What fails here fails again for who needs it, and says so there.
            _ = engine.store.warm(engine.config.role == Role::Worker).await;
        });
        Ok(self.config.default_file.then(|| {
            "Everstep: no database configured, using the SQLite file everstep.db in this folder. Set EVERSTEP_DATABASE_URL for PostgreSQL.".to_owned()
        }))
    }

    /// A table of somebody else's under a name of ours is no fault of the engine's.
    fn migration_failed(&self, e: StoreError) -> EngineError {
        match e {
            StoreError::Rejected { message, .. } if message.contains("already exists") => {
                let place = if self.is_sqlite() { "This file".to_owned() } else { format!("Schema \"{}\"", self.config.store.schema) };
                EngineError::new(Code::ConfigInvalid, format!("{place} holds tables that are not Everstep's ({message}). Name another."))
            }
            other => other.into(),
        }
    }

    /// R10: a copied or restored database does not run by itself.
    async fn check_identity(&self) -> Result<()> {
        let id = self.within_budget(|| self.store.identity()).await?;
        let environment = &self.config.environment;
        let held = match (&id.stored_environment, &id.stored_identity) {
            (None, _) | (_, None) => {
                self.within_budget(|| self.store.adopt(environment)).await?;
                None
            }
            (Some(stored), _) if stored != environment => Some(format!("this database belongs to environment \"{stored}\" and this process to \"{environment}\". Fix the configuration, or adopt the database.")),
            (_, Some(stored)) if *stored != id.actual_identity => Some("this database is a copy of the one its runs were started in. Adopt it to let them go on here too; what they do outside would then happen twice.".to_owned()),
            _ => None,
        };
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(())
    }

    pub async fn adopt(self: &Arc<Self>) -> Result<Vec<u8>> {
        self.connect().await?;
        self.within_budget(|| self.store.adopt(&self.config.environment)).await?;
        let was_held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
        if was_held && self.phase() == Phase::Launched && self.config.role == Role::Worker {
            let workflows: Vec<String> = self.registry.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            self.take_up(&workflows).await?;
        }
        self.claims.look();
        Ok(vec![])
    }

    pub async fn migrate(self: &Arc<Self>) -> Result<Vec<u8>> {
        self.store.inspect().await.map_err(first_contact)?;
        self.store.migrate().await.map_err(|e| self.migration_failed(e))?;
        let mut w = Writer::new();
        w.int(SCHEMA_VERSION.into());
        Ok(w.finish())
    }

    pub async fn launch(self: &Arc<Self>) -> Result<Vec<u8>> {
        if self.phase() >= Phase::Launched {
            return Err(EngineError::plain(if self.phase() == Phase::Launched { Code::AlreadyLaunched } else { Code::Closed }));
        }
        let notice = self.connect().await?;
        self.check_follow_ups().await?;
        if self.config.role == Role::Worker {
            self.check_served().await?;
        }
        {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            match *phase {
                Phase::Connected => *phase = Phase::Launched,
                Phase::Launched => return Err(EngineError::plain(Code::AlreadyLaunched)),
                _ => return Err(EngineError::plain(Code::Closed)),
            }
        }
        let held = self.held();
        if self.config.role == Role::Worker {
            self.start_working(held.is_some()).await?;
        }
        let mut w = Writer::new();
        w.opt_str(notice.as_deref()).opt_str(held.as_deref());
        Ok(w.finish())
    }

    async fn start_working(self: &Arc<Self>, held: bool) -> Result<()> {
        let (workflows, mut labels): (Vec<String>, Vec<String>) = {
            let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
            (registry.keys().cloned().collect(), registry.values().filter_map(|r| r.options.label.clone()).collect())
        };
        labels.sort();
        labels.dedup();
        self.claims.serve_labels(labels);
        self.served.changed();
        self.spawn(|engine| engine.run_timers());
        self.spawn(|engine| engine.run_releases());
        self.spawn(|engine| engine.run_dispatcher());
        self.start_housekeeping()?;
        if !held {
            self.take_up(&workflows).await?;
        }
        self.claims.look();
        Ok(())
    }

    /// What this process can run is known, and what its kind of process left undone is tried again.
    async fn take_up(&self, workflows: &[String]) -> Result<()> {
        self.announce(workflows).await?;
        // Runs a mismatch blocked are offered once to each build: this may be the fixed one.
        // Without a build id a deploy looks like a restart: then every launch is a build of its own.
        let build = match self.config.version.as_str() {
            "" => format!("{LAUNCH}{}", uuid::Uuid::now_v7()),
            version => version.to_owned(),
        };
        let offered = self.within_budget(|| self.store.offer_blocked(&build, workflows)).await?;
        if offered > 0 {
            self.log_all("info", "offered", &format!("{offered} blocked runs are tried with this build"));
        }
        Ok(())
    }

    async fn run_timers(self: Arc<Self>) {
        loop {
            for timer in self.timers.due().await {
                if let Some(exec) = self.exec(timer.exec) {
                    exec.timer_due(&self, &timer.place, &timer.due, &mut super::Outbox::default());
                }
            }
        }
    }

    pub fn info(&self) -> String {
        let c = &self.config;
        serde_json::json!({
            "phase": format!("{:?}", self.phase()).to_lowercase(),
            "store": if self.is_sqlite() { "sqlite" } else { "postgres" },
            "namespace": c.store.namespace,
            "schema": c.store.schema,
            "environment": c.environment,
            "version": c.version,
            "incarnation": self.incarnation().map(|i| i.to_string()),
            "held": self.held(),
            "executing": self.exec_count(),
            "slots": c.slots,
            "lease_ms": c.lease_ms,
            "beat_ms": c.beat_ms,
            "max_parked": c.max_parked,
            "release_after_ms": c.release_after_ms,
            "max_payload": c.max_payload,
            "cancel_grace_ms": c.cancel_grace_ms,
            "max_crashes": c.max_crashes,
            "outage_budget_ms": c.outage_budget_ms,
            "counters": self.counters.json(),
        })
        .to_string()
    }
}

/// The first connection: what is wrong now needs a person, not patience.
fn first_contact(e: StoreError) -> EngineError {
    match e {
        StoreError::Unavailable(m) => EngineError::new(Code::DatabaseUnreachable, format!("{} ({m})", Code::DatabaseUnreachable.means())),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;
    use super::*;

    #[test]
    fn the_last_registration_that_names_slots_wins_and_none_is_refused() {
        let h = ByHand::open(false);
        let register = |name: &str, options: &str| {
            let mut w = Writer::new();
            w.int(1).str("workflow").str(name).null().str(options);
            h.engine.register(&w.finish()).map_err(|e| e.code)
        };
        register("a", r#"{"slots":7}"#).unwrap();
        let _one = h.claim(|_| {});
        register("b", r#"{"slots":3}"#).unwrap();
        register("c", "{}").unwrap();
        assert_eq!(h.free_slots(), 2);
        assert_eq!(register("d", r#"{"slots":0}"#), Err(Code::ConfigInvalid));
    }
}
