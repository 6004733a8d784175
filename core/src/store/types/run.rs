//! What a run is made of: its state, where its calls stand, what it carries.

use std::sync::Arc;

use uuid::Uuid;

/// A run's key (`core/docs/protocol.md`, "Identity").
pub type RunKey = Uuid;

/// User data with the codec that wrote it. The engine never looks inside `data`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// 0: no value at all; 1: JSON as `core/docs/payload.md` describes it.
    pub codec: i16,
    /// Encryption key id; null until a later release encrypts.
    pub key_id: Option<String>,
    pub data: Vec<u8>,
}

impl Payload {
    pub fn json(data: Vec<u8>) -> Self {
        Payload { codec: 1, key_id: None, data }
    }

    /// Whether this process can hand it on. What another codec wrote would be taken for a value that cannot be read, and fail who reads it for good.
    pub fn is_known(&self) -> bool {
        matches!(self.codec, 0 | 1)
    }

    /// The value's bytes; None where there is no value at all.
    pub fn value(&self) -> Option<&[u8]> {
        (self.codec != 0).then_some(self.data.as_slice())
    }

    /// The JSON text, if that is what this is.
    pub fn as_json(&self) -> Option<&[u8]> {
        (self.codec == 1).then_some(self.data.as_slice())
    }
}

/// Run states (`core/docs/states.md`). The number is what the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum RunState {
    /// Claimable now, or at the time of its `start`/`retry` timer.
    Ready = 1,
    /// Owned by a worker that executes it or keeps it parked in memory.
    Running = 2,
    /// Released: no owner, no memory; a timer or a wake brings it back to `Ready`.
    Waiting = 3,
    /// A cancel was requested; its owner, or whoever claims it next, cleans up.
    Cancelling = 4,
    /// Stopped by the engine (mismatch, poison); resumable.
    Blocked = 5,
    Succeeded = 6,
    Failed = 7,
    Cancelled = 8,
}

impl RunState {
    pub const ALL: [RunState; 8] = [
        RunState::Ready,
        RunState::Running,
        RunState::Waiting,
        RunState::Cancelling,
        RunState::Blocked,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Cancelled,
    ];

    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == code)
    }

    pub fn name(self) -> &'static str {
        match self {
            RunState::Ready => "ready",
            RunState::Running => "running",
            RunState::Waiting => "waiting",
            RunState::Cancelling => "cancelling",
            RunState::Blocked => "blocked",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }

    /// Whether a cancel leaves the end to the run's own code. One that was never claimed has nothing to undo, and the code of a blocked one cannot run; any
    /// other may have a `finally` that must not depend on whether memory was short when it waited.
    pub fn cleans_up_at(self, epoch: i32) -> bool {
        self == RunState::Running || (matches!(self, RunState::Ready | RunState::Waiting) && epoch > 0)
    }
}

/// Where a call stands in its run: `seq` counts calls of one branch in program order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub segment: i32,
    /// "" is the main branch; a child branch is `parent/seq/index` or `parent/seq/key`.
    pub branch: Arc<str>,
    pub seq: i32,
}

/// Name and call site, interned: `id` is a hash, so no round trip hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub id: i64,
    pub name: Arc<str>,
    /// `file:line` of the call in the user's program, or empty.
    pub location: Arc<str>,
}

/// What the reader of `ready` looks for: one per (namespace, queue, workflow, label). `id` is a hash of the four.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    pub id: i64,
    /// "" when the run names no queue.
    pub queue: String,
    pub workflow: String,
    pub label: String,
}

/// A point in database time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Milliseconds from the statement's own time.
    After(i64),
    /// Microseconds since the Unix epoch.
    At(i64),
}

/// The first microsecond of the year 1 and the last of the year 9999: what every store and language can say.
const CALENDAR_US: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

impl Due {
    /// A time outside the calendar is long over, or never comes.
    pub fn at(us: i64) -> Self {
        Due::At(us.clamp(*CALENDAR_US.start(), *CALENDAR_US.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `core/docs/states.md` draws the states once; this keeps the page and the code one thing.
    #[test]
    fn the_page_and_the_code_know_the_same_states() {
        let page = include_str!("../../../docs/states.md");
        let cells = |line: &str| line.split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
        let mut numbered = Vec::new();
        let mut changes = 0;
        for row in page.lines().filter(|l| l.starts_with("| ")).map(cells) {
            if let Ok(number) = row[2].parse::<i16>() {
                numbered.push((row[1].clone(), number));
            } else if let Some(to) = RunState::from_name(&row[2]) {
                let from = RunState::from_name(&row[1]);
                assert!(from.is_some() || row[1] == "(new)", "{row:?}");
                assert!(!from.is_some_and(RunState::is_terminal) || to == RunState::Ready, "an ended state changes only by retry, resume or rewind: {row:?}");
                changes += 1;
            }
        }
        let code: Vec<(String, i16)> = RunState::ALL.iter().map(|s| (s.name().to_owned(), *s as i16)).collect();
        assert_eq!(numbered, code);
        assert!(changes > 15, "the table of changes was not read");
    }
}
