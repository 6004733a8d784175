//! For tests: an engine that nothing moves. It has no runtime, and the test answers what it writes, so that a race is played in the order the test says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::Result;
use super::{Engine, Outbox, identity};
use crate::protocol::client::Event;
use crate::protocol::frame::Writer;
use crate::protocol::ops::kind;
use crate::run::begin::Asked;
use crate::run::exec::{Exec, ExecSetup};
use crate::run::retry::RetryPolicy;
use crate::run::waits::WaitFor;
use crate::store::{ClaimedRun, Payload, Position, RunState, Site, StepRecord, Verdict, WaitKind, Write};

pub struct ByHand {
    pub engine: Arc<Engine>,
    client: u32,
}

/// A run of workflow `w` as it is when claimed for the first time.
fn fresh() -> ClaimedRun {
    let key = uuid::Uuid::now_v7();
    ClaimedRun {
        key,
        epoch: 1,
        state: RunState::Running,
        inbox: 0,
        segment: 0,
        id_text: None,
        route: identity::route("default", "", "w", ""),
        version: None,
        priority: 0,
        input: Payload::default(),
        parent: None,
        root: key,
        trace_parent: None,
        attributes: None,
        created_by: None,
        options: None,
        new_effects: 0,
        has_children: false,
        crashes: 0,
        run_attempt: 1,
        deadline_in_ms: None,
        cancel: None,
        steps: vec![],
        more_steps: false,
        attempts: vec![],
        waits: vec![],
    }
}

pub fn asked<'a>(branch: &'a str, token: u64, kind: i16, name: &'a str) -> Asked<'a> {
    Asked { branch, token, flags: 0, kind, name, location: "w.rs:1", digest: None, policy: RetryPolicy::none() }
}

/// A step `s` of the main branch that gave back `output`.
pub fn recorded(seq: i32, output: &[u8]) -> StepRecord {
    StepRecord {
        at: Position { segment: 0, branch: "".into(), seq },
        kind: kind::STEP,
        site: Site { id: 1, name: "s".into(), location: "w.rs:1".into() },
        digest: None,
        failed: false,
        done: seq,
        seen: seq,
        attempt: 1,
        took_us: 0,
        token: 0,
        written_by: uuid::Uuid::nil(),
        epoch: 1,
        recorded_at: 0,
        output: Payload::json(output.to_vec()),
    }
}

pub fn receive(topic: &str) -> WaitFor {
    WaitFor { kind: WaitKind::Receive, due: None, target: None, key: topic.into() }
}

impl ByHand {
    pub fn open(ordered: bool) -> ByHand {
        let engine = Engine::open(r#"{"database":"sqlite::memory:"}"#).unwrap();
        let client = engine.attach(ordered).unwrap();
        let mut w = Writer::new();
        w.int(client.into()).str("workflow").str("w");
        engine.register(&w.finish()).unwrap();
        ByHand { engine, client }
    }

    pub fn claim(&self, change: impl FnOnce(&mut ClaimedRun)) -> Arc<Exec> {
        let mut run = fresh();
        change(&mut run);
        let setup = ExecSetup {
            id: self.engine.next_exec.fetch_add(1, Ordering::Relaxed),
            client: self.engine.client(self.client).unwrap(),
            client_id: self.client,
            lane: 0,
            retry: RetryPolicy::none(),
            on_finish: None,
        };
        let exec = Arc::new(Exec::new(run, setup).0);
        self.engine.slots_changed(self.client, -1);
        self.engine.remember(&exec);
        exec
    }

    /// What was written since, answered one by one.
    pub fn answer(&self, with: impl Fn(&Write) -> Result<Verdict>) -> Vec<Write> {
        let (writes, acks) = self.engine.lanes[0].take();
        for (write, ack) in writes.iter().cloned().zip(acks) {
            let verdict = with(&write);
            ack(&self.engine, write, verdict, &mut Outbox::default());
        }
        writes
    }

    /// All of it is in the database.
    pub fn commit(&self) -> Vec<Write> {
        self.answer(|write| match write {
            Write::Wait { .. } => Ok(Verdict::Opened { due_in_ms: None }),
            _ => Ok(Verdict::Committed),
        })
    }

    /// What the host was told since.
    pub fn told(&self) -> Vec<Event> {
        self.engine.client(self.client).unwrap().try_drain(1000)
    }

    pub fn free_slots(&self) -> i64 {
        self.engine.free_slots()
    }

    pub fn history_bytes(&self) -> i64 {
        self.engine.history_bytes.load(Ordering::Relaxed)
    }
}
