//! A host in Rust with threads: the smallest binding there could be. Its tests drive the engine over the border alone, as any language does.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use everstep::protocol::frame::{Reader, Writer};
use everstep::protocol::{self, Event, FIRST_WAITED_TOKEN, ops};
use ops::{event, op, verdict};

/// How a test waits for what must come: long enough for a loaded machine, and an error with a name when it does not.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An execution that has ended, or a cancel: what a workflow's code passes up.
#[derive(Debug, Clone, PartialEq)]
pub enum Unwind {
    Stopped(String),
    Cancelled,
    /// The error document of a failed step, or the code of a usage error.
    Failed(String),
}

pub type Flow<T> = Result<T, Unwind>;
type Workflow = Arc<dyn Fn(&Ctx) -> Flow<String> + Send + Sync>;

pub struct Host {
    pub handle: u64,
    pub client: u32,
    tokens: AtomicU64,
    workflows: Mutex<HashMap<String, Workflow>>,
    closing: AtomicBool,
    /// Executions stopped, by run, with why.
    pub stops: Mutex<Vec<String>>,
    pub logs: Mutex<Vec<String>>,
}

pub struct Ctx {
    pub host: Arc<Host>,
    pub exec: u64,
    pub run: String,
    pub input: String,
    pub attempt: i64,
    pub replaying: bool,
    pub branch: String,
    pub flags: i64,
}

pub fn frame(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    write(&mut w);
    w.finish()
}

impl Host {
    pub fn open(config: serde_json::Value) -> Arc<Host> {
        let handle = protocol::open(&config.to_string()).expect("open");
        let client = protocol::attach(handle, false).expect("attach");
        Arc::new(Host {
            handle,
            client,
            tokens: AtomicU64::new(FIRST_WAITED_TOKEN),
            workflows: Mutex::default(),
            closing: AtomicBool::new(false),
            stops: Mutex::default(),
            logs: Mutex::default(),
        })
    }

    pub fn workflow(self: &Arc<Self>, name: &str, body: impl Fn(&Ctx) -> Flow<String> + Send + Sync + 'static) {
        self.register("workflow", name, None, body);
    }

    pub fn register(self: &Arc<Self>, kind: &str, name: &str, options: Option<&str>, body: impl Fn(&Ctx) -> Flow<String> + Send + Sync + 'static) {
        self.workflows.lock().unwrap().insert(name.into(), Arc::new(body));
        let f = frame(|w| {
            w.int(self.client.into()).str(kind).str(name).null().opt_str(options);
        });
        assert_eq!(protocol::call(self.handle, op::REGISTER, &f).0, 0);
    }

    /// Launch, and start the thread that hands runs to threads of their own.
    pub fn launch(self: &Arc<Self>) {
        self.ask(op::LAUNCH, vec![]).expect("launch");
        let host = self.clone();
        std::thread::spawn(move || {
            while !host.closing.load(Ordering::Relaxed) {
                for e in protocol::drain(host.handle, host.client, 100, Duration::from_millis(20)) {
                    host.take(e);
                }
            }
        });
    }

    fn take(self: &Arc<Self>, e: Event) {
        let mut r = Reader::new(&e.frame);
        match e.kind {
            event::RUN_READY => {
                let (run, name, _kind) = (r.str().unwrap().to_owned(), r.str().unwrap().to_owned(), r.str().unwrap());
                let (attempt, replaying, _id) = (r.int().unwrap(), r.bool().unwrap(), r.opt_str().unwrap());
                let input = String::from_utf8(r.opt_bytes().unwrap().unwrap_or_default().to_vec()).unwrap();
                let body = self.workflows.lock().unwrap()[&name].clone();
                let ctx = Ctx { host: self.clone(), exec: e.token, run, input, attempt, replaying, branch: String::new(), flags: 0 };
                std::thread::spawn(move || {
                    let outcome = body(&ctx);
                    ctx.finish(outcome);
                });
            }
            event::STOP => self.stops.lock().unwrap().push(r.str().unwrap().to_owned()),
            event::LOG => self.logs.lock().unwrap().push(format!("{} {} {}", r.str().unwrap(), r.str().unwrap(), r.str().unwrap())),
            _ => {}
        }
    }

    pub fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    pub fn wait(&self, token: u64) -> Result<Vec<u8>, (String, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(e) = protocol::wait(self.handle, self.client, token, Duration::from_millis(200)) {
                return answer(e);
            }
            assert!(Instant::now() < until, "no answer in {PATIENCE:?}");
        }
    }

    pub fn ask(&self, op: u32, frame: Vec<u8>) -> Result<Vec<u8>, (String, String)> {
        let token = self.token();
        if !protocol::submit(self.handle, self.client, token, op, &frame) {
            return Err(("closed".into(), String::new()));
        }
        self.wait(token)
    }

    /// Start with options written by `options` (a RUN_OPTIONS list of `n` values).
    pub fn start_with(&self, workflow: &str, input: &str, n: usize, options: impl FnOnce(&mut Writer)) -> Result<String, String> {
        let f = frame(|w| {
            w.str(workflow).bytes(input.as_bytes());
            if n > 0 {
                w.list(n);
                options(w);
            }
        });
        let a = self.ask(op::START, f).map_err(|e| e.0)?;
        Ok(Reader::new(&a).str().unwrap().to_owned())
    }

    pub fn start(&self, workflow: &str, input: &str) -> String {
        self.start_with(workflow, input, 0, |_| {}).expect("start")
    }

    /// (state, value) of the run's end, or the error's code.
    pub fn result(&self, run: &str) -> Result<(String, String), String> {
        let a = self.ask(op::AWAIT_RESULT, frame(|w| _ = w.str(run).int(PATIENCE.as_millis() as i64))).map_err(|e| format!("{}: {}", e.0, e.1))?;
        let mut r = Reader::new(&a);
        let state = r.str().unwrap().to_owned();
        Ok((state, String::from_utf8(r.opt_bytes().unwrap().unwrap_or_default().to_vec()).unwrap()))
    }

    /// A field of RUN, as text.
    pub fn run(&self, run: &str) -> Vec<everstep::protocol::Value> {
        let a = self.ask(op::GET_RUN, frame(|w| _ = w.str(run))).expect("get_run");
        match everstep::protocol::frame::decode(&a).unwrap().into_iter().next() {
            Some(everstep::protocol::Value::List(l)) => l,
            other => panic!("no run: {other:?}"),
        }
    }

    pub fn state(&self, run: &str) -> String {
        match &self.run(run)[ops::record::run::STATE] {
            everstep::protocol::Value::Str(s) => s.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub fn until_state(&self, run: &str, state: &str) {
        let until = Instant::now() + PATIENCE;
        while self.state(run) != state {
            assert!(Instant::now() < until, "run is {} and never became {state}", self.state(run));
        }
    }

    pub fn control(&self, op: u32, run: &str) -> String {
        let a = self.ask(op, frame(|w| _ = w.str(run))).expect("control");
        Reader::new(&a).str().unwrap().to_owned()
    }

    pub fn send(&self, run: &str, topic: &str, value: &str) {
        self.ask(op::SEND, frame(|w| _ = w.str(run).str(topic).bytes(value.as_bytes()))).expect("send");
    }

    pub fn close(&self) {
        protocol::close(self.handle, Duration::from_millis(300));
        self.closing.store(true, Ordering::Relaxed);
    }
}

fn answer(e: Event) -> Result<Vec<u8>, (String, String)> {
    if e.kind & 0xff == event::COMPLETED {
        return Ok(e.frame);
    }
    let mut r = Reader::new(&e.frame);
    Err((r.str().unwrap().to_owned(), r.str().unwrap().to_owned()))
}

impl Ctx {
    /// The same execution in a child branch.
    pub fn branch(&self, branch: String) -> Ctx {
        Ctx { host: self.host.clone(), run: self.run.clone(), input: self.input.clone(), branch, ..*self }
    }

    pub fn shielded(&self) -> Ctx {
        Ctx { flags: ops::flag::SHIELDED, ..self.branch(self.branch.clone()) }
    }

    fn finish(&self, outcome: Flow<String>) {
        let (failed, value, cancelled) = match outcome {
            Ok(value) => (false, value, false),
            Err(Unwind::Failed(document)) => (true, document, false),
            Err(Unwind::Cancelled) => (false, "null".into(), true),
            Err(Unwind::Stopped(_)) => return,
        };
        let f = frame(|w| {
            w.int(self.exec as i64)
                .bool(failed)
                .bytes(value.as_bytes())
                .opt_str(failed.then_some("Error"))
                .opt_str(failed.then_some("it failed"))
                .bool(failed)
                .bool(cancelled);
        });
        let _ = self.host.ask(op::FINISH_RUN, f);
    }

    fn call(&self, op: u32, f: Vec<u8>) -> Flow<Vec<u8>> {
        match protocol::call(self.host.handle, op, &f) {
            (0, a) => Ok(a),
            (_, e) => Err(Unwind::Failed(Reader::new(&e).str().unwrap().to_owned())),
        }
    }

    /// Follow pending verdicts to one that says what to do: Ok((verdict, its frame)).
    fn settle(&self, token: u64, mut f: Vec<u8>) -> Flow<(i64, Vec<u8>)> {
        loop {
            let mut r = Reader::new(&f);
            match r.int().unwrap() {
                verdict::PENDING => f = self.host.wait(token).map_err(|e| Unwind::Failed(e.0))?,
                verdict::STOPPED => return Err(Unwind::Stopped(r.str().unwrap().to_owned())),
                verdict::CANCELLED => return Err(Unwind::Cancelled),
                v => return Ok((v, f)),
            }
        }
    }

    fn value(&self, token: u64, f: Vec<u8>) -> Flow<Option<String>> {
        let (_, f) = self.settle(token, f)?;
        let mut r = Reader::new(&f);
        r.int().unwrap();
        let failed = r.bool().unwrap();
        let value = r.opt_bytes().unwrap().map(|b| String::from_utf8(b.to_vec()).unwrap());
        if failed { Err(Unwind::Failed(value.unwrap_or_default())) } else { Ok(value) }
    }

    /// A step whose attempts are made by `body(attempt, idempotency key)`.
    pub fn step_with(
        &self,
        name: &str,
        arguments: Option<&str>,
        policy: impl FnOnce(&mut Writer),
        mut body: impl FnMut(i64, &str) -> Result<String, String>,
    ) -> Flow<String> {
        let token = self.host.token();
        let f = frame(|w| {
            w.int(self.exec as i64).str(&self.branch).int(token as i64).int(self.flags).int(ops::kind::STEP.into()).str(name).str("test.rs:1");
            w.opt_bytes(arguments.map(str::as_bytes)).null();
            policy(w);
        });
        let mut f = self.call(op::BEGIN_STEP, f)?;
        let mut wait_on = token;
        let mut sent = String::new();
        loop {
            let (v, g) = self.settle(wait_on, f)?;
            let mut r = Reader::new(&g);
            r.int().unwrap();
            if v == verdict::RECORDED {
                let failed = r.bool().unwrap();
                let value = r.opt_bytes().unwrap().map_or(sent, |b| String::from_utf8(b.to_vec()).unwrap());
                return if failed { Err(Unwind::Failed(value)) } else { Ok(value) };
            }
            let (seq, attempt, key) = (r.int().unwrap(), r.int().unwrap(), r.str().unwrap().to_owned());
            let outcome = body(attempt, &key);
            sent = outcome.clone().unwrap_or_else(|e| e);
            wait_on = self.host.token();
            let done = frame(|w| {
                w.int(self.exec as i64).str(&self.branch).int(seq).int(attempt).bool(outcome.is_err()).bytes(sent.as_bytes()).bool(true);
            });
            protocol::submit(self.host.handle, self.host.client, wait_on, op::FINISH_STEP, &done);
            f = frame(|w| _ = w.int(verdict::PENDING));
        }
    }

    pub fn step(&self, name: &str, body: impl FnMut() -> String) -> Flow<String> {
        let mut body = body;
        self.step_with(name, None, |w| _ = w.null(), |_, _| Ok(body()))
    }

    pub fn step_of(&self, name: &str, arguments: &str, mut body: impl FnMut() -> String) -> Flow<String> {
        self.step_with(name, Some(arguments), |w| _ = w.null(), |_, _| Ok(body()))
    }

    pub fn wait_for(&self, kind: &str, due_ms: Option<i64>, run: Option<&str>, key: Option<&str>) -> Flow<Option<String>> {
        let token = self.host.token();
        let f = frame(|w| {
            w.int(self.exec as i64)
                .str(&self.branch)
                .int(token as i64)
                .int(self.flags)
                .str(kind)
                .str("test.rs:2")
                .opt_int(due_ms)
                .null()
                .opt_str(run)
                .opt_str(key);
        });
        let f = self.call(op::BEGIN_WAIT, f)?;
        self.value(token, f)
    }

    pub fn sleep(&self, ms: i64) -> Flow<()> {
        self.wait_for("sleep", Some(ms), None, None).map(drop)
    }

    pub fn receive(&self, topic: &str, timeout_ms: Option<i64>) -> Flow<Option<String>> {
        self.wait_for("receive", timeout_ms, None, Some(topic))
    }

    pub fn send(&self, run: &str, topic: &str, value: &str) -> Flow<()> {
        let token = self.host.token();
        let f = frame(|w| {
            w.int(self.exec as i64).str(&self.branch).int(token as i64).int(self.flags).str("").str(run).str(topic).bytes(value.as_bytes());
        });
        let f = self.call(op::BEGIN_SEND, f)?;
        self.value(token, f).map(drop)
    }

    pub fn set_event(&self, key: &str, value: &str) -> Flow<()> {
        let token = self.host.token();
        let f = frame(|w| {
            w.int(self.exec as i64).str(&self.branch).int(token as i64).int(self.flags).str("").str(key).bytes(value.as_bytes());
        });
        let f = self.call(op::BEGIN_EVENT, f)?;
        self.value(token, f).map(drop)
    }

    pub fn child(&self, workflow: &str, input: &str) -> Flow<String> {
        self.child_on(None, workflow, input)
    }

    pub fn child_on(&self, queue: Option<&str>, workflow: &str, input: &str) -> Flow<String> {
        let token = self.host.token();
        let f = frame(|w| {
            w.int(self.exec as i64).str(&self.branch).int(token as i64).int(self.flags).str("").str(workflow).bytes(input.as_bytes());
            w.list(2).null().opt_str(queue);
        });
        let f = self.call(op::BEGIN_CHILD, f)?;
        let key = self.value(token, f)?.unwrap();
        Ok(key.trim_matches('"').to_owned())
    }

    pub fn durable(&self, which: &str) -> Flow<String> {
        let token = self.host.token();
        let f = frame(|w| _ = w.int(self.exec as i64).str(&self.branch).int(token as i64).int(self.flags).str(which).str(""));
        let f = self.call(op::BEGIN_VALUE, f)?;
        Ok(self.value(token, f)?.unwrap())
    }

    pub fn patch(&self, name: &str) -> bool {
        let f = frame(|w| _ = w.int(self.exec as i64).str(&self.branch).int(self.flags).str(name).str(""));
        Reader::new(&self.call(op::PATCH, f).unwrap()).bool().unwrap()
    }

    /// (seq, winner recorded) of a group.
    pub fn group(&self, kind: &str) -> Flow<(i64, Option<String>)> {
        let f = self.call(op::BEGIN_GROUP, frame(|w| _ = w.int(self.exec as i64).str(&self.branch).int(self.flags).str(kind).str("")))?;
        let (v, f) = self.settle(0, f)?;
        let mut r = Reader::new(&f);
        r.int().unwrap();
        if v == verdict::RUN {
            return Ok((r.int().unwrap(), None));
        }
        r.bool().unwrap();
        let winner = String::from_utf8(r.bytes().unwrap().to_vec()).unwrap();
        Ok((r.int().unwrap(), Some(winner)))
    }

    pub fn finish_group(&self, seq: i64, winner: &str) -> Flow<String> {
        let token = self.host.token();
        let f = frame(|w| _ = w.int(self.exec as i64).str(&self.branch).int(seq).str(winner));
        protocol::submit(self.host.handle, self.host.client, token, op::FINISH_GROUP, &f);
        Ok(self.value(token, frame(|w| _ = w.int(verdict::PENDING)))?.unwrap())
    }
}
