//! The invariants as the event log shows them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Report;
use crate::event_log::{Record, monotonic_to_wall};

/// I2 and I6: once a step's value came back to the workflow, the step never runs again; before that, it runs again only because the
/// process that ran it was killed, drained or fenced.
pub(super) fn repeats(records: &[Record], deaths: &HashMap<u32, Vec<i64>>, controlled: &HashSet<String>, report: &mut Report) {
    let offset = monotonic_to_wall();
    let dead_at = |pid: u32, at: i64| deaths.get(&pid).is_some_and(|d| d.iter().any(|death| *death <= at + offset));
    let gone = |pid: u32| deaths.contains_key(&pid) || !crate::cluster::alive(pid);
    let mut acked: HashMap<(&str, &str), u32> = HashMap::new();
    let mut begun: HashMap<(&str, &str, i64), &Record> = HashMap::new();
    let (mut executions, mut zombies, mut repeated) = (0, 0, 0);
    for record in records {
        let position = (record.run.as_str(), record.step.as_str());
        match record.kind.as_str() {
            "ack" | "nack" => {
                acked.entry(position).or_insert(record.pid);
            }
            "begin" => {
                executions += 1;
                let excused = controlled.contains(&record.run);
                // A transaction that rolled back has not happened: it may be tried again anywhere (I5 counts what it did).
                let rolled_back = record.detail == "tx";
                if acked.contains_key(&position) && !excused {
                    // A process that was declared dead and does not know it yet may start a step; it must never record it (I7).
                    if dead_at(record.pid, record.at) {
                        zombies += 1;
                    } else {
                        report.broken(
                            "I2",
                            format!("run {} step {}: ran again in process {} after its value had come back", record.run, record.step, record.pid),
                        );
                    }
                }
                if let Some(before) = begun.insert((position.0, position.1, record.attempt), record) {
                    repeated += 1;
                    if rolled_back {
                        continue;
                    }
                    if before.pid == record.pid && !gone(record.pid) && !excused {
                        report.broken(
                            "I6",
                            format!(
                                "run {} step {} attempt {}: ran twice in process {}, which was neither killed nor fenced",
                                record.run, record.step, record.attempt, record.pid
                            ),
                        );
                    } else if before.pid != record.pid && !gone(before.pid) && !excused {
                        report.broken(
                            "I6",
                            format!(
                                "run {} step {} attempt {}: ran in process {} and again in {} although the first was neither killed nor fenced",
                                record.run, record.step, record.attempt, before.pid, record.pid
                            ),
                        );
                    }
                }
            }
            _ => {}
        }
    }
    report.count("executions", executions);
    report.count("permitted re-runs", repeated);
    if zombies > 0 {
        report.notes.push(format!("{zombies} steps began in processes already declared dead (their records are refused)"));
    }
}

/// I4: everybody who asked for the result of a run got the same bytes.
pub(super) fn results(records: &[Record], controlled: &HashSet<String>, report: &mut Report) {
    let mut first: HashMap<&str, &Record> = HashMap::new();
    let mut asked = 0;
    for record in records.iter().filter(|r| r.kind == "result") {
        asked += 1;
        let before = first.entry(&record.run).or_insert(record);
        if before.detail != record.detail && !controlled.contains(&record.run) {
            report.broken("I4", format!("run {}: one caller got {}, another {}", record.run, before.detail, record.detail));
        }
    }
    report.count("results read", asked);
}

/// I13: each message is received at one place only, and what one sender sent to one topic of one run arrives in the order it was sent.
/// A message's text is `sender#number`.
pub(super) fn messages(records: &[Record], report: &mut Report) {
    let mut place: HashMap<(&str, &str), &Record> = HashMap::new();
    let mut by_place: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut last: HashMap<(&str, &str), (i64, &str)> = HashMap::new();
    for record in records.iter().filter(|r| r.kind == "received" && r.detail.contains('#')) {
        let message = (record.run.as_str(), record.detail.as_str());
        let before = place.entry(message).or_insert(record);
        if before.step != record.step {
            report.broken("I13", format!("run {}: message {} arrived at {} and at {}", record.run, record.detail, before.step, record.step));
        }
        let known = by_place.insert((&record.run, &record.step), &record.detail);
        if let Some(other) = known.filter(|k| *k != record.detail) {
            report.broken("I13", format!("run {} step {}: received {other}, on replay {}", record.run, record.step, record.detail));
        }
        if known.is_some() {
            continue;
        }
        let Some((sender, number)) = record.detail.rsplit_once('#').and_then(|(s, n)| Some((s, n.parse::<i64>().ok()?))) else { continue };
        if let Some((before, _)) = last.insert((&record.run, sender), (number, &record.step))
            && before >= number
        {
            report.broken("I13", format!("run {}: message {number} of {sender} arrived after {before}", record.run));
        }
    }
    report.count("receives", by_place.len() as i64);
}

/// I14: no sleep ends before its time, counted from the first time it was asked for.
pub(super) fn timers(records: &[Record], report: &mut Report) {
    let mut since: HashMap<(&str, &str), i64> = HashMap::new();
    let mut woken = HashSet::new();
    for record in records {
        let position = (record.run.as_str(), record.step.as_str());
        match record.kind.as_str() {
            "sleep" => {
                since.entry(position).or_insert(record.at);
            }
            "woke" if woken.insert(position) => {
                let asked = record.detail.parse::<i64>().unwrap_or(0);
                let slept = (record.at - since.get(&position).copied().unwrap_or(record.at)) / 1_000_000;
                // The database counts whole milliseconds from its own statement; one is lost to rounding.
                if slept + 1 < asked {
                    report.broken("I14", format!("run {} step {}: slept {slept} ms of {asked}", record.run, record.step));
                }
            }
            _ => {}
        }
    }
    report.count("sleeps", woken.len() as i64);
}

/// I9: no more steps of a limited queue at one time than its limit. Such a step begins with the detail `limit QUEUE N`; one whose process
/// was declared dead holds its place until then.
pub(super) fn limits(records: &[Record], deaths: &HashMap<u32, Vec<i64>>, report: &mut Report) {
    let offset = monotonic_to_wall();
    let mut open: HashMap<(&str, &str), (&str, u32)> = HashMap::new();
    let mut most = 0;
    for record in records {
        match record.kind.as_str() {
            "begin" if record.detail.starts_with("limit ") => {
                let mut words = record.detail.split(' ').skip(1);
                let (queue, limit) = (words.next().unwrap_or(""), words.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0));
                open.retain(|_, (_, pid)| !deaths.get(pid).is_some_and(|d| d.iter().any(|at| *at <= record.at + offset)));
                open.insert((&record.run, &record.step), (queue, record.pid));
                let now = open.values().filter(|(q, _)| *q == queue).count();
                most = most.max(now);
                if now > limit {
                    report.broken("I9", format!("run {} step {}: {now} at one time on queue {queue}, its limit is {limit}", record.run, record.step));
                }
            }
            "end" => {
                open.remove(&(record.run.as_str(), record.step.as_str()));
            }
            _ => {}
        }
    }
    if most > 0 {
        report.count("at once on a limited queue", most as i64);
    }
}

/// I3: a durable value (a uuid, an idempotency key) that was seen once is the same ever after.
pub(super) fn values(records: &[Record], controlled: &HashSet<String>, report: &mut Report) {
    let mut first: HashMap<(&str, &str), &str> = HashMap::new();
    for record in records.iter().filter(|r| r.kind == "value") {
        let before = first.entry((&record.run, &record.step)).or_insert(&record.detail);
        if *before != record.detail && !controlled.contains(&record.run) {
            report.broken("I3", format!("run {} step {}: {before} became {}", record.run, record.step, record.detail));
        }
    }
    report.count("durable values", first.len() as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, step: &str, pid: u32, at: i64, detail: &str) -> Record {
        Record { kind: kind.into(), run: "r".into(), step: step.into(), attempt: 1, pid, at, detail: detail.into() }
    }

    fn me() -> u32 {
        std::process::id()
    }

    fn check(records: &[Record], deaths: &[(u32, i64)]) -> Vec<&'static str> {
        let mut report = Report::default();
        let deaths: HashMap<u32, Vec<i64>> = deaths.iter().map(|(p, at)| (*p, vec![*at])).collect();
        repeats(records, &deaths, &HashSet::new(), &mut report);
        results(records, &HashSet::new(), &mut report);
        messages(records, &mut report);
        timers(records, &mut report);
        limits(records, &deaths, &mut report);
        values(records, &HashSet::new(), &mut report);
        report.findings.into_iter().map(|f| f.invariant).collect()
    }

    #[test]
    fn a_step_that_runs_after_its_value_came_back_is_found() {
        let told = [record("begin", "0", me(), 1, "-"), record("ack", "0", me(), 2, "-"), record("begin", "1", me(), 3, "-")];
        assert_eq!(check(&told, &[]), Vec::<&str>::new());
        let again = [told.to_vec(), vec![record("begin", "0", 4_000_000, 4, "-")]].concat();
        assert!(check(&again, &[]).contains(&"I2"));
        // Fenced before it began: counted, not broken, for the first process is dead too.
        assert_eq!(check(&again, &[(4_000_000, 0), (me(), 0)]), Vec::<&str>::new());
    }

    #[test]
    fn a_repeat_without_a_kill_is_found() {
        let twice = [record("begin", "0", me(), 1, "-"), record("begin", "0", me(), 2, "-")];
        assert_eq!(check(&twice, &[]), ["I6"]);
        let killed = [record("begin", "0", 4_000_000, 1, "-"), record("begin", "0", me(), 2, "-")];
        assert_eq!(check(&killed, &[]), Vec::<&str>::new());
    }

    #[test]
    fn differing_results_doubled_messages_and_early_timers_are_found() {
        assert_eq!(check(&[record("result", "-", 1, 1, "aa"), record("result", "-", 2, 2, "bb")], &[]), ["I4"]);
        assert_eq!(check(&[record("received", "0", 1, 1, "a#1"), record("received", "1", 1, 2, "a#1")], &[]), ["I13", "I13"]);
        assert_eq!(check(&[record("received", "0", 1, 1, "a#2"), record("received", "1", 1, 2, "a#1")], &[]), ["I13"]);
        let early = [record("sleep", "0", 1, 0, "50"), record("woke", "0", 1, 40_000_000, "50")];
        assert_eq!(check(&early, &[]), ["I14"]);
        assert_eq!(check(&[record("value", "0", 1, 1, "u1"), record("value", "0", 2, 2, "u2")], &[]), ["I3"]);
    }

    #[test]
    fn a_limit_that_is_exceeded_is_found() {
        let begin = |step: &str, pid| record("begin", step, pid, 5, "limit q 2");
        let two = [begin("0", me()), begin("1", 4_000_000)];
        assert_eq!(check(&two, &[]), Vec::<&str>::new());
        let three = [two.to_vec(), vec![begin("2", me())]].concat();
        assert_eq!(check(&three, &[]), ["I9"]);
        assert_eq!(check(&three, &[(4_000_000, 1)]), Vec::<&str>::new());
    }
}
