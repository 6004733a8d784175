//! How a program under measurement talks to `tests/bench`: lines of JSON out, one line in to begin.

use std::io::{BufRead, Write};

use serde_json::{Map, Value, json};

#[derive(Default)]
pub(crate) struct Outcome(Map<String, Value>);

impl Outcome {
    pub(crate) fn new() -> Self {
        Outcome::default()
    }

    pub(crate) fn with(mut self, measure: &str, value: impl Into<Value>) -> Self {
        self.0.insert(measure.into(), value.into());
        self
    }

    pub(crate) fn say(self) {
        say(&json!({ "result": self.0 }));
    }
}

pub(crate) fn say(line: &Value) {
    println!("{line}");
    // Nobody reads any more: the measurement was given up.
    if std::io::stdout().flush().is_err() {
        std::process::exit(1);
    }
}

/// Says it is ready and waits for the line that starts the clock; false when there will be none.
pub(crate) fn ready() -> bool {
    say(&json!({ "ready": true }));
    another_line()
}

pub(crate) fn another_line() -> bool {
    let mut line = String::new();
    matches!(std::io::stdin().lock().read_line(&mut line), Ok(n) if n > 0)
}

pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((share * values.len() as f64) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

pub(crate) fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}
