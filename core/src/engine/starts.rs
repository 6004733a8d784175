//! Starting runs: claimed in the same insert where this process may run them at once (design `semantics.md` §7), else ready for whoever serves them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::error::{EngineError, Result};
use super::names::Unknown;
use super::options::{RunOptions, StartOptions};
use super::{Engine, Outbox, Phase, Role, identity};
use crate::protocol::client::{Client, Event};
use crate::protocol::errors::Code;
use crate::protocol::frame::{Reader, Writer};
use crate::protocol::ops::event;
use crate::run::exec::Exec;
use crate::run::retry::{PartialRetry, RetryPolicy};
use crate::run::text;
use crate::store::{ClaimedRun, Ended, NewRun, Parent, Payload, RunKey, RunState, StoreKind, Verdict, Write};

/// Called with the outcome of one start: (run, attached).
type Started = Box<dyn FnOnce(std::result::Result<(RunKey, bool), EngineError>, &mut Outbox) + Send>;

impl Engine {
    pub fn key_of(&self, id: &str) -> Result<RunKey> {
        identity::check_name("the run's id", id)?;
        Ok(identity::run_key(&self.config.store.namespace, id))
    }

    /// A run to insert, from what a host asked for.
    pub fn new_run(&self, workflow: &str, input: Option<&[u8]>, o: StartOptions, parent: Option<Parent>) -> Result<NewRun> {
        identity::check_name("the workflow's name", workflow)?;
        let input = input.map_or_else(Payload::default, |i| Payload::json(i.to_vec()));
        if input.data.len() > self.config.max_payload {
            return Err(EngineError::new(
                Code::PayloadTooLarge,
                format!(
                    "The input of workflow \"{workflow}\" is {} bytes; the limit is {}. Keep large data elsewhere and pass a reference.",
                    input.data.len(),
                    self.config.max_payload
                ),
            ));
        }
        let registered = self.registered(workflow);
        let of = registered.as_ref().map(|r| &r.options);
        let queue = o.queue.unwrap_or_default();
        let label = o.label.or_else(|| of.and_then(|r| r.label.clone())).unwrap_or_default();
        let options = RunOptions {
            retry: PartialRetry::merged(o.retry, of.and_then(|r| r.retry.as_ref())),
            on_finish: o.on_finish.or_else(|| of.and_then(|r| r.on_finish.clone())),
        };
        Ok(NewRun {
            key: match &o.id {
                Some(id) => self.key_of(id)?,
                None => uuid::Uuid::now_v7(),
            },
            id_text: o.id,
            route: identity::route(&self.config.store.namespace, &queue, workflow, &label),
            version: o.version.or_else(|| registered.as_ref().and_then(|r| r.version.clone())),
            priority: o.priority,
            start: o.start,
            expires_ms: o.expires_ms,
            deadline_ms: o.deadline_ms.or_else(|| of.and_then(|r| r.deadline_ms)),
            input,
            parent,
            forked_from: None,
            trace_parent: o.trace_parent,
            trace_state: o.trace_state,
            attributes: o.attributes,
            fairness_key: o.fairness_key,
            cost: o.cost,
            created_by: o.created_by,
            dedup: o.dedup,
            options: options.to_text(),
            reuse_purged: o.reuse_purged,
            claimed: false,
            claim_token: self.random(),
        })
    }

    /// `start`.
    pub fn start(self: &Arc<Self>, client: Arc<Client>, token: u64, frame: &[u8]) -> Result<()> {
        let mut r = Reader::new(frame);
        let workflow = r.str()?;
        let input = r.opt_bytes()?;
        let options = StartOptions::read(&mut r)?;
        let unchecked = options.unchecked;
        let run = self.new_run(workflow, input, options, None)?;
        self.look_up_then(self.unknown(&run, unchecked), move |engine| {
            engine.start_run(
                run,
                unchecked,
                Box::new(move |outcome, out| match outcome {
                    Ok((run, attached)) => {
                        let mut w = Writer::new();
                        w.str(&run.to_string()).bool(attached);
                        out.complete(&client, token, w.finish());
                    }
                    Err(e) => out.push(&client, Event { token, kind: event::FAILED, frame: e.frame() }),
                }),
            );
        });
        Ok(())
    }

    /// `start_many`: every item gets its own answer; one bad item does not keep the others from starting.
    pub fn start_many(self: &Arc<Self>, client: Arc<Client>, token: u64, frame: &[u8]) -> Result<()> {
        let mut r = Reader::new(frame);
        let workflow = r.str()?.to_owned();
        let mut items = r.opt_list()?.ok_or_else(|| EngineError::new(Code::FrameInvalid, "start_many takes a list of items"))?;
        let mut runs = Vec::new();
        while !items.at_end() {
            let mut item = items.opt_list()?.ok_or_else(|| EngineError::new(Code::FrameInvalid, "each item is a list [input, options]"))?;
            let input = item.opt_bytes()?;
            runs.push(StartOptions::read(&mut item).and_then(|o| Ok((o.unchecked, self.new_run(&workflow, input, o, None)?))));
        }
        let gathered = Arc::new(Gathered::new(runs.len(), client, token));
        if runs.is_empty() {
            gathered.send(&mut Outbox::default());
        }
        let unknown = runs.iter().flatten().fold(Unknown::default(), |all, (unchecked, run)| all.or(self.unknown(run, *unchecked)));
        // Looked up once: a thousand items of a name that is new here are one question.
        self.look_up_then(unknown, move |engine| {
            for (i, run) in runs.into_iter().enumerate() {
                let gathered = gathered.clone();
                match run {
                    Ok((unchecked, run)) => engine.start_run(run, unchecked, Box::new(move |outcome, out| gathered.put(i, outcome, out))),
                    Err(e) => gathered.put(i, Err(e), &mut Outbox::default()),
                }
            }
        });
        Ok(())
    }

    fn start_run(self: &Arc<Self>, mut run: NewRun, unchecked: bool, started: Started) {
        if let Err(e) = self.check_start(&run, unchecked) {
            return started(Err(e), &mut Outbox::default());
        }
        if self.may_claim(&run) {
            if self.incarnation().is_none() {
                // The first run of an idle process: the lease first, one round trip, then as always.
                let (this, slot) = (self.clone(), self.registered(&run.route.workflow).map(|r| r.client));
                self.spawn(move |_| async move {
                    let leased = this.ensure_lease().await.is_ok();
                    run.claimed = leased && slot.is_some_and(|client| this.take_slot(client));
                    this.insert(run, started);
                });
                return;
            }
            run.claimed = self.registered(&run.route.workflow).is_some_and(|r| self.take_slot(r.client));
        }
        self.insert(run, started);
    }

    /// Whether this run may be inserted as already ours, but for a free slot.
    fn may_claim(&self, run: &NewRun) -> bool {
        self.config.role == Role::Worker
            && self.phase() == Phase::Launched
            && self.held().is_none()
            && self.has_room_at_once()
            && run.start.is_none()
            && run.dedup.is_none()
            && run.route.label.is_empty()
            && self.registered(&run.route.workflow).is_some()
            && self.serves_queue(&run.route.queue)
            && self.queues.is_free(&run.route.queue)
            && !self.claims.anyone_ready(&run.route)
    }

    fn take_slot(&self, client: u32) -> bool {
        self.slots_of(client).is_some_and(|s| s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| (free > 0).then_some(free - 1)).is_ok())
    }

    fn insert(self: &Arc<Self>, run: NewRun, started: Started) {
        if run.claimed {
            self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(run.key);
        }
        let lane = self.lane_of(run.key);
        self.write(lane, Write::Start(Box::new(run)), Box::new(move |engine, write, answer, out| engine.after_start(write, answer, started, out)));
    }

    fn after_start(self: &Arc<Self>, write: Write, answer: Result<Verdict>, started: Started, out: &mut Outbox) {
        let Write::Start(mut run) = write else { return };
        let slot = self.registered(&run.route.workflow).map(|r| r.client).filter(|_| run.claimed);
        let give_back = || {
            if let Some(client) = slot {
                self.slots_changed(client, 1);
            }
        };
        let key = run.key;
        let outcome = match answer {
            Ok(Verdict::Started { claimed: true }) => {
                started(Ok((key, false)), out);
                self.execute(as_claimed(*run), out);
                self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                return;
            }
            Ok(Verdict::Started { claimed: false }) => {
                give_back();
                if run.start.is_none() {
                    self.claims.became_ready(&run.route.workflow);
                }
                Ok((key, false))
            }
            // Only by its dedup key: under one id another workflow is a conflict already.
            Ok(Verdict::Attached { run: holder, workflow, .. }) if workflow != run.route.workflow => {
                give_back();
                Err(EngineError::new(
                    Code::IdConflict,
                    format!("Run {holder} holds this dedup key and is of workflow \"{workflow}\", not \"{}\". Use another key.", run.route.workflow),
                ))
            }
            Ok(Verdict::Attached { run, .. }) => {
                give_back();
                Ok((run, true))
            }
            Ok(Verdict::IdConflict { workflow, .. }) => {
                give_back();
                let id = run.id_text.as_deref().unwrap_or_default();
                Err(EngineError::new(
                    Code::IdConflict,
                    format!("A run with id \"{id}\" exists and is of workflow \"{workflow}\", not \"{}\". Use another id.", run.route.workflow),
                ))
            }
            Ok(Verdict::Purged) => {
                give_back();
                let id = run.id_text.as_deref().unwrap_or_default();
                Err(EngineError::new(
                    Code::RunPurged,
                    format!("A run with id \"{id}\" existed and was removed by retention. Start it again only with the option reuse_purged."),
                ))
            }
            Ok(Verdict::Deduplicated { run: holder }) => {
                give_back();
                Err(EngineError::new(Code::RunDeduplicated, format!("Run {holder} holds this dedup key.")))
            }
            Ok(Verdict::Fenced) if run.claimed => {
                // The lease went while this start was under way: it becomes a start like any other.
                give_back();
                self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                run.claimed = false;
                run.claim_token = self.random();
                return self.insert(*run, started);
            }
            Ok(Verdict::Refused { message }) => {
                give_back();
                Err(EngineError::new(Code::PayloadInvalid, message))
            }
            Ok(other) => {
                give_back();
                Err(EngineError::new(Code::Internal, format!("unexpected verdict for a start: {other:?}")))
            }
            Err(e) => {
                give_back();
                Err(e)
            }
        };
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        started(outcome, out);
    }

    /// Hand a run we own to its host.
    pub fn execute(self: &Arc<Self>, run: ClaimedRun, out: &mut Outbox) {
        let registered = self.registered(&run.route.workflow).filter(|_| self.phase() == Phase::Launched);
        let Some((registered, client)) = registered.and_then(|r| Some((r.clone(), self.client(r.client)?))) else {
            self.slot_back(&run.route.workflow);
            self.give_back(run.key, run.epoch);
            return;
        };
        let options = RunOptions::from_text(run.options.as_deref());
        let setup = crate::run::exec::ExecSetup {
            id: self.next_exec.fetch_add(1, Ordering::Relaxed),
            client,
            client_id: registered.client,
            lane: self.lane_of(run.key),
            // Merged where it was started too; but that process need not know the workflow.
            retry: PartialRetry::merged(options.retry, registered.options.retry.as_ref()).map_or_else(RetryPolicy::none, |r| r.policy()),
            on_finish: options.on_finish.or(registered.options.on_finish),
        };
        let unreadable = (!run.input.is_known()).then(|| text::unknown_codec(&format!("The input of run {}", run.key), run.input.codec));
        let (exec, claimed) = Exec::new(run, setup);
        let exec = Arc::new(exec);
        self.remember(&exec);
        if let Some(message) = unreadable {
            exec.block(self, &mut exec.lock(), Code::PayloadCodec, message, out);
            return;
        }
        let key = exec.placed(&exec.position(&exec.whole())).idempotency_key();
        let mut w = Writer::new();
        w.str(&exec.run.to_string())
            .str(&exec.workflow)
            .str(if registered.is_step { "step" } else { "workflow" })
            .int(exec.run_attempt.into())
            .bool(claimed.replaying);
        w.opt_str(claimed.id_text.as_deref()).opt_bytes(claimed.input.value());
        w.opt_str(claimed.attributes.as_deref()).opt_str(claimed.trace_parent.as_deref()).str(&key.to_string()).opt_int(claimed.deadline_in_ms);
        match registered.is_step {
            true => exec.begin_job(self, w.finish(), out),
            false => exec.tell(event::RUN_READY, w.finish(), out),
        }
    }

    /// The run that `on_finish` starts, in the commit of the end itself.
    pub fn finish_run_start(&self, exec: &Exec, workflow: &str, state: RunState, value: &Payload, epoch: i32) -> NewRun {
        let ended = Ended {
            run: exec.run,
            epoch,
            state,
            value: value.clone(),
            workflow: exec.workflow.to_string(),
            root: exec.root,
            trace_parent: exec.trace_parent.clone(),
            options: String::new(),
        };
        following(&self.config.store.namespace, workflow, &ended)
    }

    /// Where the store makes no difference, hosts should not either.
    pub fn is_sqlite(&self) -> bool {
        self.store.kind() == StoreKind::Sqlite
    }
}

/// What is to follow a run that the store ends: what its start has named, for no registration of this process need be the one it would have run under.
pub fn follow_up(namespace: &str, ended: &Ended) -> Option<NewRun> {
    let workflow = RunOptions::from_text(Some(&ended.options)).on_finish?;
    Some(following(namespace, &workflow, ended))
}

fn following(namespace: &str, workflow: &str, ended: &Ended) -> NewRun {
    // The payload goes in as it is: what the engine does not parse it cannot change.
    let value = std::str::from_utf8(&ended.value.data).ok().filter(|v| !v.is_empty()).unwrap_or("null");
    let (of, state) = (serde_json::Value::from(ended.workflow.as_str()), ended.state.name());
    let input = format!(r#"{{"run":"{}","workflow":{of},"state":"{state}","value":{value}}}"#, ended.run);
    NewRun {
        key: identity::finish_key(ended.run, ended.epoch),
        id_text: None,
        route: identity::route(namespace, "", workflow, ""),
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(input.into_bytes()),
        parent: Some(Parent { run: ended.run, root: ended.root, policy: crate::store::ClosePolicy::Abandon }),
        forked_from: None,
        trace_parent: ended.trace_parent.clone(),
        trace_state: None,
        attributes: None,
        fairness_key: None,
        cost: 1,
        created_by: None,
        dedup: None,
        options: None,
        reuse_purged: false,
        claimed: false,
        claim_token: uuid::Uuid::new_v4().as_u64_pair().0 as i64,
    }
}

/// A run inserted as claimed, as `claim` would have returned it: nothing is recorded, so nothing is read.
fn as_claimed(run: NewRun) -> ClaimedRun {
    ClaimedRun {
        key: run.key,
        epoch: 1,
        state: RunState::Running,
        inbox: 0,
        segment: 0,
        id_text: run.id_text,
        route: run.route,
        version: run.version,
        priority: run.priority,
        input: run.input,
        root: run.parent.as_ref().map_or(run.key, |p| p.root),
        parent: run.parent.map(|p| p.run),
        trace_parent: run.trace_parent,
        attributes: run.attributes,
        created_by: run.created_by,
        options: run.options,
        new_effects: 0,
        has_children: false,
        crashes: 0,
        run_attempt: 1,
        deadline_in_ms: run.deadline_ms,
        cancel: None,
        steps: vec![],
        more_steps: false,
        attempts: vec![],
        waits: vec![],
    }
}

/// None until it is known.
type Answer = Option<std::result::Result<(RunKey, bool), EngineError>>;

/// Answers of `start_many`, in the order of its items.
struct Gathered {
    answers: std::sync::Mutex<(usize, Vec<Answer>)>,
    client: Arc<Client>,
    token: u64,
}

impl Gathered {
    fn new(n: usize, client: Arc<Client>, token: u64) -> Self {
        Gathered { answers: std::sync::Mutex::new((n, (0..n).map(|_| None).collect())), client, token }
    }

    fn put(&self, i: usize, outcome: std::result::Result<(RunKey, bool), EngineError>, out: &mut Outbox) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.1[i] = Some(outcome);
        answers.0 -= 1;
        let last = answers.0 == 0;
        drop(answers);
        if last {
            self.send(out);
        }
    }

    fn send(&self, out: &mut Outbox) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut w = Writer::new();
        w.list(answers.1.len());
        for answer in &answers.1 {
            match answer {
                Some(Ok((run, attached))) => w.list(4).str(&run.to_string()).bool(*attached).null().null(),
                Some(Err(e)) => w.list(4).null().bool(false).str(e.code.as_str()).str(&e.message),
                None => w.list(0),
            };
        }
        out.complete(&self.client, self.token, w.finish());
    }
}
