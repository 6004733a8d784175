//! Invariants I1-I9, I13 and I14 of the recovery design, checked from two sources that cannot agree by accident: the database, and the
//! event log the user functions wrote. A finding is a broken promise; a note is something that is allowed and worth a look.

mod log;
mod state;

use std::collections::BTreeMap;

use crate::database::Database;
use crate::event_log::EventLog;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub invariant: &'static str,
    pub text: String,
}

#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub notes: Vec<String>,
    /// What was looked at, so that an audit of nothing does not pass for a clean one.
    pub counted: BTreeMap<&'static str, i64>,
}

impl Report {
    fn broken(&mut self, invariant: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { invariant, text: text.into() });
    }

    fn count(&mut self, what: &'static str, n: i64) {
        *self.counted.entry(what).or_default() += n;
    }

    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted: Vec<String> = self.counted.iter().map(|(k, n)| format!("{n} {k}")).collect();
        writeln!(f, "audited: {}", counted.join(", "))?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for finding in self.findings.iter().take(40) {
            writeln!(f, "BROKEN {}: {}", finding.invariant, finding.text)?;
        }
        match self.findings.len() {
            0 => write!(f, "audit: clean"),
            n => write!(f, "audit: {n} broken"),
        }
    }
}

/// What the auditor may expect of the moment it looks at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect {
    /// A quiet phase is over: every accepted run is terminal, or blocked.
    pub finished: bool,
    /// A timer that is overdue by more than this, and everything else runs, is lost. Milliseconds; 0: do not check.
    pub timer_slack_ms: i64,
    /// What all transactional steps together must have moved; 0: not known.
    pub money: i64,
}

pub async fn audit(database: &mut Database, log: Option<&EventLog>, expect: Expect) -> Result<Report, String> {
    let mut report = Report::default();
    let records = log.map(EventLog::read).transpose()?.unwrap_or_default();
    let told = |e: sqlx::Error| format!("the auditor's own query failed: {e}");
    state::acceptance(database, &records, expect, &mut report).await.map_err(told)?;
    state::sleepers(database, expect, &mut report).await.map_err(told)?;
    state::history(database, &mut report).await.map_err(told)?;
    state::fencing(database, &mut report).await.map_err(told)?;
    state::ledger(database, &records, expect, &mut report).await.map_err(told)?;
    state::messages(database, &mut report).await.map_err(told)?;
    state::residue(database, expect, &mut report).await.map_err(told)?;
    let deaths = state::deaths(database).await.map_err(told)?;
    let controlled = state::controlled(database).await.map_err(told)?;
    log::repeats(&records, &deaths, &controlled, &mut report);
    log::results(&records, &controlled, &mut report);
    log::messages(&records, &mut report);
    log::timers(&records, &mut report);
    log::limits(&records, &deaths, &mut report);
    log::values(&records, &controlled, &mut report);
    Ok(report)
}

/// Samples a store while it is under load: what once was seen must not change (I3, I8).
#[derive(Default)]
pub struct Observer {
    /// Run: epoch, state, owner as last seen.
    runs: BTreeMap<String, (i64, i64, Option<String>)>,
    /// Position: digest of what was recorded there.
    outputs: BTreeMap<String, String>,
    pub samples: u64,
    pub findings: Vec<Finding>,
}

impl Observer {
    /// One look, at the newest runs: it stays cheap at any size.
    pub async fn look(&mut self, database: &mut Database) -> Result<(), sqlx::Error> {
        let controlled = state::controlled(database).await?;
        let runs = database.rows("select {id:id}, epoch, state, {id:owner} from {s}run order by id desc limit 5000").await?;
        for row in runs {
            let [Some(id), Some(epoch), Some(state), owner] = row.as_slice() else { continue };
            let (epoch, state) = (epoch.parse().unwrap_or(0), state.parse().unwrap_or(0));
            if let Some((epoch_before, state_before, owner_before)) = self.runs.get(id) {
                let mut broken = |text: String| self.findings.push(Finding { invariant: "I3", text });
                if epoch < *epoch_before {
                    broken(format!("run {id}: epoch went back from {epoch_before} to {epoch}"));
                }
                if *state_before >= 6 && state != *state_before && !controlled.contains(id) {
                    broken(format!("run {id}: terminal state {state_before} became {state} without a recorded resume, retry or rewind"));
                }
                let both = owner.as_ref().filter(|o| !o.is_empty()).zip(owner_before.as_ref().filter(|o| !o.is_empty()));
                if both.is_some_and(|(now, before)| now != before) && epoch == *epoch_before {
                    self.findings.push(Finding { invariant: "I8", text: format!("run {id}: two owners in one epoch {epoch}") });
                }
            }
            self.runs.insert(id.clone(), (epoch, state, owner.clone()));
        }
        let steps = database.rows("select {id:run_id}, segment, branch, seq, {hash:output}, failed from {s}step order by run_id desc limit 5000").await?;
        for row in steps {
            let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
            let (position, digest) = (format!("{} {} {:?} {}", text(0), text(1), text(2), text(3)), text(4) + &text(5));
            if let Some(before) = self.outputs.get(&position)
                && *before != digest
                && !controlled.contains(&text(0))
            {
                self.findings.push(Finding { invariant: "I3", text: format!("step {position}: the recorded value changed") });
            }
            self.outputs.insert(position, digest);
        }
        self.samples += 1;
        Ok(())
    }
}
