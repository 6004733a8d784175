//! The engine's border as this host uses it: what a binding's glue is in another language. Frames in, events out, nothing else.

use std::time::Duration;

use everstep::protocol::frame::{Reader, Writer};
use everstep::protocol::{self, Event, ops};
use serde_json::{Value, json};

pub(crate) struct Border {
    handle: u64,
    client: u32,
    next_token: u64,
}

/// What `begin_*` and `finish_*` answer.
pub(crate) enum Verdict {
    Recorded,
    Run { seq: i64, attempt: i64 },
    Pending,
    Stopped,
}

impl Border {
    /// `settings` on top of the defaults.
    pub(crate) fn open(url: &str, settings: Value) -> Result<Border, String> {
        let mut config = json!({ "database": url, "language": "rust", "auto_migrate": true });
        if let (Some(all), Value::Object(more)) = (config.as_object_mut(), settings) {
            all.extend(more);
        }
        let handle = protocol::open(&config.to_string()).map_err(said)?;
        let client = protocol::attach(handle, false).map_err(said)?;
        Ok(Border { handle, client, next_token: 0 })
    }

    pub(crate) fn register(&self, workflow: &str, slots: usize) -> Result<(), String> {
        let mut w = Writer::new();
        w.int(i64::from(self.client)).str("workflow").str(workflow).null().str(&json!({ "slots": slots }).to_string());
        self.call(ops::op::REGISTER, w).map(drop)
    }

    pub(crate) fn call(&self, op: u32, frame: Writer) -> Result<Vec<u8>, String> {
        let (status, answer) = protocol::call(self.handle, op, &frame.finish());
        if status == 0 { Ok(answer) } else { Err(failure(&answer)) }
    }

    pub(crate) fn submit(&mut self, op: u32, frame: Writer) -> Result<u64, String> {
        self.next_token += 1;
        if !protocol::submit(self.handle, self.client, self.next_token, op, &frame.finish()) {
            return Err("the engine is closed".into());
        }
        Ok(self.next_token)
    }

    /// Submit and wait for the answer; for what happens before and after a load, when no other event is due.
    pub(crate) fn ask(&mut self, op: u32, frame: Writer) -> Result<Vec<u8>, String> {
        let token = self.submit(op, frame)?;
        loop {
            for event in self.drain() {
                match event.kind {
                    ops::event::COMPLETED if event.token == token => return Ok(event.frame),
                    ops::event::FAILED if event.token == token => return Err(failure(&event.frame)),
                    ops::event::LOG => {}
                    other => return Err(format!("event {other} while waiting for operation {op}")),
                }
            }
        }
    }

    /// At least one event, or nothing after a second.
    pub(crate) fn drain(&self) -> Vec<Event> {
        protocol::drain(self.handle, self.client, 4096, Duration::from_secs(1))
    }

    pub(crate) fn begin_step(&mut self, exec: u64, name: &str) -> Result<Verdict, String> {
        self.next_token += 1;
        let mut w = Writer::new();
        w.int(exec as i64).str("").int(self.next_token as i64).int(0).int(i64::from(ops::kind::STEP)).str(name).str("load.rs:1");
        verdict(&self.call(ops::op::BEGIN_STEP, w)?)
    }

    /// Token of the verdict to come.
    pub(crate) fn finish_step(&mut self, exec: u64, seq: i64, attempt: i64, output: &[u8]) -> Result<u64, String> {
        let mut w = Writer::new();
        w.int(exec as i64).str("").int(seq).int(attempt).bool(false).bytes(output);
        self.submit(ops::op::FINISH_STEP, w)
    }

    pub(crate) fn finish_run(&mut self, exec: u64) -> Result<u64, String> {
        let mut w = Writer::new();
        w.int(exec as i64).bool(false).bytes(b"null");
        self.submit(ops::op::FINISH_RUN, w)
    }

    pub(crate) fn launch(&mut self) -> Result<(), String> {
        self.ask(ops::op::LAUNCH, Writer::new()).map(drop)
    }

    pub(crate) fn close(self) {
        protocol::close(self.handle, Duration::from_secs(25));
    }
}

pub(crate) fn verdict(frame: &[u8]) -> Result<Verdict, String> {
    let mut r = Reader::new(frame);
    match r.int().map_err(text)? {
        ops::verdict::RECORDED => Ok(Verdict::Recorded),
        ops::verdict::RUN => Ok(Verdict::Run { seq: r.int().map_err(text)?, attempt: r.int().map_err(text)? }),
        ops::verdict::PENDING => Ok(Verdict::Pending),
        _ => Ok(Verdict::Stopped),
    }
}

pub(crate) fn failure(frame: &[u8]) -> String {
    let mut r = Reader::new(frame);
    let code = r.opt_str().ok().flatten().unwrap_or("?").to_owned();
    format!("{code}: {}", r.opt_str().ok().flatten().unwrap_or("?"))
}

fn said((code, message): (String, String)) -> String {
    format!("{code}: {message}")
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
