//! The second witness: records that user functions append to one file, each with a single O_APPEND write, so that the file is one total
//! order over all processes and survives their SIGKILL. Seven fields, separated by spaces:
//! `kind run step attempt pid nanoseconds detail`; an empty field is `-`; the clock is CLOCK_MONOTONIC of this host.
//!
//! | kind | written |
//! |---|---|
//! | accepted | by a client, after start() returned ok |
//! | begin, end | by a step, first and last thing it does |
//! | ack, nack | by the workflow, after the step's value (error) came back |
//! | sleep, woke | by the workflow, before and after a durable sleep; detail: milliseconds |
//! | sent, received | by the workflow or a client, after a send (receive) came back; detail: the message |
//! | result | by a client, after a result came back; detail: a digest of it |
//! | note | by the workflow or a step, whatever a scenario wants to see |

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: String,
    pub run: String,
    pub step: String,
    pub attempt: i64,
    pub pid: u32,
    pub at: i64,
    pub detail: String,
}

impl Record {
    fn parse(line: &str) -> Option<Record> {
        let mut fields = line.splitn(7, ' ');
        Some(Record {
            kind: fields.next()?.to_string(),
            run: fields.next()?.to_string(),
            step: fields.next()?.to_string(),
            attempt: fields.next()?.parse().unwrap_or(0),
            pid: fields.next()?.parse().ok()?,
            at: fields.next()?.parse().ok()?,
            detail: fields.next()?.to_string(),
        })
    }
}

#[derive(Debug, Clone)]
pub struct EventLog(PathBuf);

impl EventLog {
    pub fn at(path: &Path) -> EventLog {
        EventLog(path.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every whole record so far. A malformed line is an error: a torn write would make the file worthless as a witness.
    pub fn read(&self) -> Result<Vec<Record>, String> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.to_string()),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|l| Record::parse(l).ok_or_else(|| format!("malformed record in the event log: {l:?}"))).collect()
    }

    pub fn count(&self, kind: &str, run: Option<&str>, step: Option<&str>) -> Result<usize, String> {
        let all = self.read()?;
        let wanted = |r: &&Record| r.kind == kind && run.is_none_or(|x| r.run == x) && step.is_none_or(|x| r.step == x);
        Ok(all.iter().filter(wanted).count())
    }

    /// Wait until `reached` says so about the records so far.
    pub async fn until(&self, within: Duration, mut reached: impl FnMut(&[Record]) -> bool) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + within;
        let mut length = u64::MAX;
        loop {
            let now = std::fs::metadata(&self.0).map(|m| m.len()).unwrap_or(0);
            if now != length {
                length = now;
                if reached(&self.read()?) {
                    return Ok(());
                }
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("the event log did not show it within {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Processes that wrote anything.
    pub fn pids(&self) -> Result<HashSet<u32>, String> {
        Ok(self.read()?.into_iter().map(|r| r.pid).collect())
    }
}

/// What to add to a monotonic time to have the wall clock, both in nanoseconds: log and database are on one host.
pub fn monotonic_to_wall() -> i64 {
    use rustix::time::{ClockId, clock_gettime};
    let nanos = |c| {
        let t = clock_gettime(c);
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    };
    nanos(ClockId::Realtime) - nanos(ClockId::Monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_records_only_and_refuses_torn_ones() {
        let path = std::env::temp_dir().join(format!("everstep-log-{}", std::process::id()));
        let log = EventLog::at(&path);
        assert_eq!(log.read(), Ok(Vec::new()));
        std::fs::write(&path, "begin r1 0 1 77 12 -\nack r1 0 1 77 15 a b c\nbegin r1").expect("writes");
        let records = log.read().expect("reads");
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].detail, "a b c");
        std::fs::write(&path, "begin r1 0\nack r1 0 1 77 15 -\n").expect("writes");
        assert!(log.read().is_err());
        std::fs::remove_file(&path).expect("removes");
    }
}
