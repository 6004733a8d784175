//! Scenarios as data: `tests/scenarios/*.toml`. A scenario names what processes run, what goes wrong when, and what must have come out;
//! it never names a language. `tests/README.md` describes the form.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(skip)]
    pub name: String,
    /// What is promised, in one sentence.
    pub about: String,
    /// Rows of the feature table this shows.
    pub features: Vec<String>,
    #[serde(default = "both")]
    pub stores: Vec<Store>,
    /// `server` (a PostgreSQL of its own), `proxy`, `pooler`, or what some language lacks (see `tests/languages.toml`).
    #[serde(default)]
    pub needs: Vec<String>,
    /// Engine configuration of every worker, over the suite's own.
    #[serde(default)]
    pub engine: Value,
    /// What the closing audit may assume.
    #[serde(default)]
    pub audit: AuditMode,
    #[serde(rename = "do")]
    pub steps: Vec<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    Postgres,
    Sqlite,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Store::Postgres => "postgres",
            Store::Sqlite => "sqlite",
        }
    }
}

fn both() -> Vec<Store> {
    vec![Store::Postgres, Store::Sqlite]
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditMode {
    /// Every run has ended or is blocked.
    #[default]
    Finished,
    /// Some runs still wait, on purpose.
    Open,
}

fn one() -> usize {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Start a worker process and launch it. `error`: launching fails with this code. `held`: it says so, with this text.
    Worker {
        name: String,
        #[serde(default)]
        engine: Value,
        #[serde(default)]
        environment: Vec<(String, String)>,
        error: Option<String>,
        held: Option<String>,
        /// Through which door: `direct`, `proxy`, `pooler`; default: what the scenario needs.
        via: Option<String>,
    },
    /// Start one run, or `count` runs named `id-0`, `id-1`, ..
    Start {
        id: String,
        by: Option<String>,
        #[serde(default)]
        program: Value,
        #[serde(default)]
        options: Value,
        count: Option<usize>,
        workflow: Option<String>,
        error: Option<String>,
        attached: Option<bool>,
    },
    /// Ask for the result and compare it. `error`: it fails with this code; `contains`: and its message holds these texts.
    Result {
        id: String,
        by: Option<String>,
        value: Option<Value>,
        error: Option<String>,
        #[serde(default)]
        contains: Vec<String>,
        count: Option<usize>,
        within_ms: Option<u64>,
    },
    /// Send the question now and compare the answer at `answer`.
    Ask {
        name: String,
        by: Option<String>,
        op: String,
        #[serde(default)]
        with: Value,
    },
    Answer {
        name: String,
        value: Option<Value>,
        error: Option<String>,
    },
    /// Any other command of the worker vocabulary.
    Call {
        by: Option<String>,
        op: String,
        #[serde(default)]
        with: Value,
        /// The whole answer.
        value: Option<Value>,
        /// Fields the answer has, as given here.
        has: Option<Value>,
        #[serde(default)]
        contains: Vec<String>,
        error: Option<String>,
    },
    /// A message from outside to one run, or to each of `id-0`, `id-1`, ..
    Send {
        id: String,
        by: Option<String>,
        topic: String,
        value: Value,
        count: Option<usize>,
    },
    /// Page through a list: so many runs, none of them twice.
    Listed {
        by: Option<String>,
        #[serde(default)]
        with: Value,
        page: usize,
        count: usize,
    },
    /// Wait until the database shows this run in this state (looked up by its id; no worker needs to live).
    Until {
        id: String,
        state: String,
        within_ms: Option<u64>,
        count: Option<usize>,
    },
    /// Wait until a query has this one value. `{s}` stands before a table.
    Sql {
        query: String,
        value: Value,
        within_ms: Option<u64>,
    },
    /// Wait until the event log holds at least so many such records.
    Log {
        kind: String,
        run: Option<String>,
        step: Option<String>,
        detail: Option<String>,
        #[serde(default = "one")]
        count: usize,
        within_ms: Option<u64>,
    },
    /// It holds exactly so many of them now.
    Logged {
        kind: String,
        run: Option<String>,
        step: Option<String>,
        detail: Option<String>,
        count: usize,
        /// And so many details that differ.
        distinct: Option<usize>,
    },
    Kill {
        name: String,
    },
    Stop {
        name: String,
    },
    Continue {
        name: String,
    },
    /// Graceful.
    Close {
        name: String,
        within_ms: Option<u64>,
    },
    /// The worker ends by itself.
    Ended {
        name: String,
    },
    /// Let steps pass that `hold` at this gate.
    Open {
        gate: String,
    },
    /// restart | kill | stop | start | freeze | thaw
    Postgres {
        what: String,
    },
    /// Keep it in this condition for so many leases of the scenario's engine: the fault's length is its point.
    Leases {
        count: f64,
    },
    /// before | after | blackhole | fail:SQLSTATE on the next statement that contains `text`.
    Fault {
        text: String,
        what: String,
        #[serde(default)]
        skip: u64,
        #[serde(default = "one")]
        times: usize,
    },
    /// Wait until so many faults have struck.
    Struck {
        count: u64,
    },
    /// Mark a moment, and check what has passed since.
    Mark {
        name: String,
    },
    Since {
        mark: String,
        at_most_ms: u64,
    },
}

impl Scenario {
    pub fn load(path: &Path) -> Result<Scenario, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut scenario: Scenario = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        scenario.name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(scenario)
    }

    /// All of a directory, by name.
    pub fn load_all(directory: &Path) -> Result<Vec<Scenario>, String> {
        let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect();
        paths.sort();
        paths.iter().map(|p| Scenario::load(p)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A misspelt action would otherwise show only when its scenario is played.
    #[test]
    fn every_scenario_is_well_formed_and_names_its_features() {
        let all = Scenario::load_all(&crate::worker::root().join("tests/scenarios")).expect("all load");
        assert!(all.len() > 30, "only {} scenarios found", all.len());
        for scenario in all {
            assert!(!scenario.features.is_empty() && !scenario.about.is_empty() && !scenario.steps.is_empty(), "{}", scenario.name);
        }
    }
}
