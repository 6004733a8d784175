//! A host in Rust: registers workflows, answers run events, records steps, all over the border. Its workflows do nothing, so what is
//! measured is the engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everstep::protocol::frame::{Reader, Writer};
use everstep::protocol::{Event, ops};
use serde_json::json;

use crate::Options;
use crate::border::{Border, Verdict, failure, verdict};
use crate::report::{Outcome, another_line, percentile, ready, resident_mb, say};

/// A step's output: 100 bytes, as in the bare limit.
const OUTPUT: &[u8; 100] = b"\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";
const QUEUE: &str = "bench";
const HOUR_MS: i64 = 3_600_000;

enum Token {
    Start,
    Step(u64),
    End,
}

struct Run {
    steps_left: usize,
    began: Instant,
}

struct Host {
    border: Border,
    /// Steps a run records, by the workflow's name; a workflow not named here sleeps for an hour.
    steps: HashMap<String, usize>,
    runs: HashMap<u64, Run>,
    tokens: HashMap<u64, Token>,
    started: usize,
    ended: usize,
    asleep: usize,
    released: usize,
    step_ms: Vec<f64>,
    start_ms: Vec<f64>,
}

impl Host {
    fn open(options: &Options, slots: usize, steps: &[(&str, usize)]) -> Result<Host, String> {
        let border = Border::open(options.text("url")?, json!({ "slots": slots }))?;
        for (name, _) in steps {
            border.register(name, slots)?;
        }
        Ok(Host {
            border,
            steps: steps.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            runs: HashMap::new(),
            tokens: HashMap::new(),
            started: 0,
            ended: 0,
            asleep: 0,
            released: 0,
            step_ms: Vec::new(),
            start_ms: Vec::new(),
        })
    }

    fn start(&mut self, workflow: &str) -> Result<(), String> {
        let mut w = Writer::new();
        w.str(workflow);
        let token = self.border.submit(ops::op::START, w)?;
        self.tokens.insert(token, Token::Start);
        self.started += 1;
        Ok(())
    }

    fn start_many(&mut self, workflow: &str, count: usize, queue: Option<&str>) -> Result<(), String> {
        for begin in (0..count).step_by(500) {
            let n = (count - begin).min(500);
            let mut w = Writer::new();
            w.str(workflow).list(n);
            for _ in 0..n {
                // [input, [id, queue]]
                w.list(2).null().list(2).null().opt_str(queue);
            }
            let token = self.border.submit(ops::op::START_MANY, w)?;
            self.tokens.insert(token, Token::Start);
        }
        self.started += count;
        Ok(())
    }

    fn put_queue(&mut self, name: &str) -> Result<(), String> {
        let mut w = Writer::new();
        w.list(6).str(name).bool(false).null().null().null().bool(false).bool(false);
        self.border.ask(ops::op::PUT_QUEUE, w).map(drop)
    }

    /// One batch of events.
    fn turn(&mut self) -> Result<(), String> {
        for event in self.border.drain() {
            self.take(event)?;
        }
        Ok(())
    }

    fn run_until(&mut self, over: impl Fn(&Host) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(600);
        while !over(self) {
            self.turn()?;
            if Instant::now() > deadline {
                return Err(format!("{} of {} runs ended in ten minutes", self.ended, self.started));
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event.kind {
            ops::event::RUN_READY => self.begin(event.token, &event.frame),
            ops::event::COMPLETED => match self.tokens.remove(&event.token) {
                Some(Token::Step(exec)) => match verdict(&event.frame)? {
                    Verdict::Recorded => self.recorded(exec),
                    _ => Ok(()),
                },
                Some(Token::End) => {
                    self.ended += 1;
                    Ok(())
                }
                Some(Token::Start) | None => Ok(()),
            },
            ops::event::FAILED => Err(failure(&event.frame)),
            ops::event::STOP => {
                self.runs.remove(&event.token);
                self.released += 1;
                Ok(())
            }
            ops::event::LOG => {
                let mut r = Reader::new(&event.frame);
                eprintln!("{} {}", r.opt_str().ok().flatten().unwrap_or(""), failure(&event.frame));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, exec: u64, frame: &[u8]) -> Result<(), String> {
        let mut r = Reader::new(frame);
        let _run = r.str().map_err(|e| e.to_string())?;
        let name = r.str().map_err(|e| e.to_string())?;
        if name == "stamp" {
            let (_kind, _attempt, _replaying, _id) = (r.opt_str(), r.opt_int(), r.opt_bool(), r.opt_str());
            let sent = r.opt_bytes().ok().flatten().and_then(|b| std::str::from_utf8(b).ok()?.parse::<f64>().ok());
            self.start_ms.push(now_ms() - sent.ok_or("a task without its time")?);
        }
        let Some(steps_left) = self.steps.get(name).copied() else {
            return Err(format!("a run of {name} came, which is not registered"));
        };
        if name == "sleeper" {
            return self.sleep(exec);
        }
        self.runs.insert(exec, Run { steps_left, began: Instant::now() });
        self.advance(exec)
    }

    fn sleep(&mut self, exec: u64) -> Result<(), String> {
        let mut w = Writer::new();
        w.int(exec as i64).str("").int(i64::MAX >> 12).int(0).str("sleep").str("load.rs:2").int(HOUR_MS);
        self.asleep += 1;
        self.border.call(ops::op::BEGIN_WAIT, w).map(drop)
    }

    fn recorded(&mut self, exec: u64) -> Result<(), String> {
        if let Some(run) = self.runs.get_mut(&exec) {
            run.steps_left -= 1;
            self.step_ms.push(run.began.elapsed().as_secs_f64() * 1000.0);
        }
        self.advance(exec)
    }

    /// The workflow's next call: another step, or its end.
    fn advance(&mut self, exec: u64) -> Result<(), String> {
        let Some(run) = self.runs.get_mut(&exec) else { return Ok(()) };
        if run.steps_left == 0 {
            self.runs.remove(&exec);
            let token = self.border.finish_run(exec)?;
            self.tokens.insert(token, Token::End);
            return Ok(());
        }
        run.began = Instant::now();
        match self.border.begin_step(exec, "work")? {
            Verdict::Run { seq, attempt } => {
                let token = self.border.finish_step(exec, seq, attempt, OUTPUT)?;
                self.tokens.insert(token, Token::Step(exec));
                Ok(())
            }
            Verdict::Recorded => self.recorded(exec),
            Verdict::Pending | Verdict::Stopped => Ok(()),
        }
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

/// Complete ten-step runs, so many in flight at all times.
pub(crate) fn steps(options: &Options) -> Result<Outcome, String> {
    let base = resident_mb();
    let (in_flight, lasts) = (options.count("in_flight")?, Duration::from_secs_f64(options.number("seconds")?));
    let mut host = Host::open(options, in_flight, &[("ten", 10)])?;
    host.border.launch()?;
    for _ in 0..in_flight / 10 {
        host.start("ten")?;
    }
    host.run_until(|h| h.ended == h.started)?;
    let warm = host.ended;
    host.step_ms = Vec::new();
    ready();
    let began = Instant::now();
    for _ in 0..in_flight {
        host.start("ten")?;
    }
    let mut rss = 0.0f64;
    let mut looked = began;
    while began.elapsed() < lasts {
        host.turn()?;
        // The times of single steps are not asked for here, and would grow without end.
        host.step_ms.clear();
        while host.started - host.ended < in_flight {
            host.start("ten")?;
        }
        if looked.elapsed() > Duration::from_millis(250) {
            looked = Instant::now();
            rss = rss.max(resident_mb());
        }
    }
    host.run_until(|h| h.ended == h.started)?;
    let (runs, seconds) = (host.ended - warm, began.elapsed().as_secs_f64());
    host.border.close();
    Ok(Outcome::new().with("runs", runs).with("seconds", seconds).with("steps_per_s", runs as f64 * 10.0 / seconds).with("rss_mb", rss - base))
}

/// One run, its steps one after another.
pub(crate) fn sequential(options: &Options) -> Result<Outcome, String> {
    let mut host = Host::open(options, 100, &[("warm", 20), ("one", options.count("steps")?)])?;
    host.border.launch()?;
    host.start("warm")?;
    host.run_until(|h| h.ended == 1)?;
    host.step_ms.clear();
    ready();
    host.start("one")?;
    host.run_until(|h| h.ended == 2)?;
    let mut took = std::mem::take(&mut host.step_ms);
    host.border.close();
    Ok(Outcome::new().with("step_p50_ms", percentile(&mut took, 0.5)).with("step_p99_ms", percentile(&mut took, 0.99)))
}

/// Enqueue no-op tasks and run them, in one process.
pub(crate) fn queue(options: &Options) -> Result<Outcome, String> {
    let tasks = options.count("tasks")?;
    let mut host = Host::open(options, 1000, &[("nothing", 0)])?;
    host.border.launch()?;
    host.put_queue(QUEUE)?;
    host.start_many("nothing", 1, Some(QUEUE))?;
    host.run_until(|h| h.ended == 1)?;
    ready();
    let began = Instant::now();
    host.start_many("nothing", tasks, Some(QUEUE))?;
    host.run_until(|h| h.ended == tasks + 1)?;
    let rate = tasks as f64 / began.elapsed().as_secs_f64();
    host.border.close();
    Ok(Outcome::new().with("queue_tasks_per_s", rate))
}

/// Work until the other side says that is all.
fn serve(host: &mut Host) -> Result<(), String> {
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            another_line();
            seen.store(true, Ordering::Relaxed);
        })
        .map_err(|e| e.to_string())?;
    while !over.load(Ordering::Relaxed) {
        host.turn()?;
    }
    Ok(())
}

/// The worker of `enqueue`: when did each task start?
pub(crate) fn starts(options: &Options) -> Result<Outcome, String> {
    let mut host = Host::open(options, 100, &[("stamp", 0)])?;
    host.border.launch()?;
    host.put_queue(QUEUE)?;
    say(&json!({ "ready": true }));
    serve(&mut host)?;
    let mut took = std::mem::take(&mut host.start_ms);
    host.border.close();
    Ok(Outcome::new().with("start_p50_ms", percentile(&mut took, 0.5)).with("start_p99_ms", percentile(&mut took, 0.99)).with("n", took.len()))
}

/// The other process: a client that runs nothing.
pub(crate) fn enqueue(options: &Options) -> Result<Outcome, String> {
    let mut border = Border::open(options.text("url")?, json!({ "role": "client" }))?;
    border.ask(ops::op::CONNECT, Writer::new())?;
    ready();
    let pause = options.number("pause_s")?;
    for task in 0..options.count("tasks")? {
        // Spread over the interval of whoever polls.
        std::thread::sleep(Duration::from_secs_f64(pause * (0.5 + (task as f64 * 0.618).fract())));
        let mut w = Writer::new();
        w.str("stamp").bytes(now_ms().to_string().as_bytes()).list(2).null().str(QUEUE);
        border.ask(ops::op::START, w)?;
    }
    std::thread::sleep(Duration::from_secs_f64(options.number("settle_s")?));
    border.close();
    Ok(Outcome::new())
}

/// Many queues, nothing to do.
pub(crate) fn idle(options: &Options) -> Result<Outcome, String> {
    let mut host = Host::open(options, 100, &[("nothing", 0)])?;
    host.border.launch()?;
    for number in 0..options.count("queues")? {
        host.put_queue(&format!("bench-{number}"))?;
    }
    say(&json!({ "ready": true }));
    serve(&mut host)?;
    host.border.close();
    Ok(Outcome::new())
}

/// Memory that many sleeping runs take, once all but the parked ones are released.
pub(crate) fn sleepers(options: &Options) -> Result<Outcome, String> {
    const PARKED: usize = 1000;
    let runs = options.count("runs")?;
    let mut host = Host::open(options, 1000, &[("nothing", 0), ("sleeper", 0)])?;
    host.border.launch()?;
    host.start_many("nothing", 2000, None)?;
    host.run_until(|h| h.ended == 2000)?;
    let before = resident_mb();
    ready();
    for begin in (0..runs).step_by(1000) {
        // A thousand at a time, each answered before the next, as a program would: what waits to be written is no sleeping run.
        host.start_many("sleeper", (runs - begin).min(1000), None)?;
        host.run_until(|h| h.tokens.is_empty())?;
    }
    host.run_until(|h| h.asleep >= runs && h.released + PARKED >= runs)?;
    let after = resident_mb();
    host.border.close();
    Ok(Outcome::new().with("rss_mb", after - before))
}
