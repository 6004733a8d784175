//! A conformance worker of some language as a process of ours: commands go in as JSON lines, answers come out, faults are signals.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use crate::cluster::send;

/// One line of `tests/languages.toml`.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Language {
    pub name: String,
    /// The conformance worker's command; `{root}` is the repository, `{python}` the suite's interpreter.
    pub command: Vec<String>,
    /// What this worker cannot express, as names scenarios put in `needs`.
    #[serde(default)]
    pub lacks: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Registry {
    language: Vec<Language>,
}

impl Language {
    pub fn all(root: &Path) -> Result<Vec<Language>, String> {
        // A language that is being brought up has a list of its own until all of the suite passes.
        let path = std::env::var_os("EVERSTEP_SUITE_LANGUAGES").map_or_else(|| root.join("tests/languages.toml"), Into::into);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(toml::from_str::<Registry>(&text).map_err(|e| format!("{}: {e}", path.display()))?.language)
    }

    /// Those of these names, in their order; without names, all. At least one.
    pub fn chosen(root: &Path, names: Option<&str>) -> Result<Vec<Language>, String> {
        let all = Language::all(root)?;
        let Some(names) = names else {
            return if all.is_empty() { Err("tests/languages.toml names no language".into()) } else { Ok(all) };
        };
        let find = |name: &str| all.iter().find(|l| l.name == name).cloned().ok_or(format!("{name} is not in tests/languages.toml"));
        names.split(',').map(|name| find(name.trim())).collect()
    }
}

/// The repository this program was built from.
pub fn root() -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// Interpreter of the suite's wheel, which has crash points and mutations compiled in.
fn python() -> String {
    std::env::var("EVERSTEP_SUITE_PYTHON").unwrap_or_else(|_| root().join(".venv-suite/bin/python").to_string_lossy().into_owned())
}

#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Failure {
    pub fn lost(message: impl Into<String>) -> Failure {
        Failure { code: "worker_gone".into(), message: message.into() }
    }
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Value, Failure>>>>>>;

pub struct Worker {
    pub name: String,
    pid: u32,
    child: Child,
    stdin: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    errors: Arc<Mutex<String>>,
    next: AtomicU64,
    stopped: bool,
}

/// How long any command may take; commands that wait carry limits of their own below this.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

impl Worker {
    /// Start the process; `config` is its one argument. Nothing is launched yet: send `launch`.
    pub async fn spawn(language: &Language, name: &str, config: &Value, environment: &[(String, String)]) -> Result<Worker, String> {
        let words: Vec<String> = language.command.iter().map(|w| w.replace("{root}", &root().to_string_lossy()).replace("{python}", &python())).collect();
        let (program, arguments) = words.split_first().ok_or("a language without a command")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(config.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("EVERSTEP_DATABASE_URL").env_remove("EVERSTEP_ENV").kill_on_drop(true).process_group(0);
        command.envs(environment.iter().cloned());
        let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let pid = child.id().ok_or("the worker ended at once")?;
        let (stdin, stdout, stderr) = match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(i), Some(o), Some(e)) => (i, o, e),
            _ => return Err("the worker has no pipes".into()),
        };
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let errors = Arc::new(Mutex::new(String::new()));
        tokio::spawn(read_answers(BufReader::new(stdout), waiting.clone()));
        let text = errors.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                // Enough to see what went wrong; a worker in a loop must not fill our memory.
                if text.len() < 200_000 {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        });
        Ok(Worker { name: name.into(), pid, child, stdin: stdin.into(), waiting, errors, next: 1.into(), stopped: false })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn errors(&self) -> String {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Send a command now; the future is its answer.
    pub async fn submit(&self, op: &str, arguments: Value) -> oneshot::Receiver<Result<Value, Failure>> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => drop(waiting.insert(n, tell)),
            None => drop(tell.send(Err(Failure::lost("the worker has ended")))),
        }
        let mut line = json!({"n": n, "op": op});
        if let (Some(line), Value::Object(arguments)) = (line.as_object_mut(), arguments) {
            line.extend(arguments);
        }
        let text = format!("{line}\n");
        // A broken pipe shows as the end of the answers, which fails every waiter.
        drop(self.stdin.lock().await.write_all(text.as_bytes()).await);
        told
    }

    pub async fn call(&self, op: &str, arguments: Value) -> Result<Value, Failure> {
        let answer = self.submit(op, arguments).await;
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::lost(format!("worker {} ended before it answered {op}", self.name))),
            Err(_) => Err(Failure { code: "no_answer".into(), message: format!("worker {} did not answer {op} in {ANSWER_LIMIT:?}", self.name) }),
        }
    }

    pub async fn kill(&mut self) {
        send(self.pid, Signal::KILL);
        self.ended().await;
    }

    pub fn stop(&mut self) {
        send(self.pid, Signal::STOP);
        self.stopped = true;
    }

    pub fn resume(&mut self) {
        send(self.pid, Signal::CONT);
        self.stopped = false;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Wait until the process is gone.
    pub async fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.wait().await.ok()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

async fn read_answers(stdout: BufReader<tokio::process::ChildStdout>, waiting: Waiting) {
    let mut lines = stdout.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(n) = answer.get("n").and_then(Value::as_u64) else { continue };
        let tell = waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|w| w.remove(&n));
        let Some(tell) = tell else { continue };
        let outcome = match answer.get("error") {
            Some(e) => Err(Failure {
                code: e.get("code").and_then(Value::as_str).unwrap_or("").into(),
                message: e.get("message").and_then(Value::as_str).unwrap_or("").into(),
            }),
            None => Ok(answer.get("ok").cloned().unwrap_or(Value::Null)),
        };
        // The caller may have given up.
        drop(tell.send(outcome));
    }
    // Whoever still waits learns that no answer will come.
    drop(waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
}
