//! Which records a run loses when it goes on from an earlier point. Pure, and one for both stores.
//!
//! A retry and a resume take back what the program called *after* the record they go on at. Rejected: what completed after it. Beside it in other branches
//! stand calls that know nothing of it, and a transaction among them would happen twice. Neither is a failure forgotten that the program has dealt with: what
//! it called then, it would call again.

use std::collections::{HashMap, HashSet};

use super::Position;

/// A record, as far as this matters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    pub at: Position,
    pub done: i32,
    pub failed: bool,
    /// The document of its error, of a failed one, if it can be read here.
    pub error: Option<Vec<u8>>,
    /// Whoever makes it must not make it again without a person who says so.
    pub at_most_once: bool,
    /// The place where the workflow saw its cancel.
    pub cancel_seen: bool,
}

/// Who retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Person,
    /// The run's own policy.
    Policy,
}

/// A retry goes on at the failed step that ended the run, and at every other failure that nothing was called after. `error`: the document of the run's
/// error; one that cannot be read may have any failure behind it.
pub(crate) fn for_retry<'r>(records: &'r [Recorded], error: Option<&[u8]>, by: By) -> Vec<&'r Recorded> {
    let said = error.and_then(texts);
    let calls = Calls::of(records.iter());
    let unhandled = |r: &Recorded| !calls.one_is_after(r);
    // An error is handed on as it is, as a cause, or with its text in another's.
    let behind = |r: &Recorded| match (&said, r.error.as_deref().and_then(message)) {
        (Some(said), Some(message)) => said.iter().any(|text| text.contains(&message)),
        _ => true,
    };
    let last = records.iter().filter(|r| r.failed && (behind(r) || unhandled(r))).map(|r| r.done).max();
    let mut gone = since(records, |r| r.failed && (Some(r.done) == last || unhandled(r)));
    gone.retain(|r| by == By::Person || !r.at_most_once);
    gone
}

fn message(document: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    document.get("message")?.as_str().map(str::to_owned)
}

/// Every text in the document of an error: its own, and those of what it names as its causes.
fn texts(document: &[u8]) -> Option<Vec<String>> {
    fn collect(value: serde_json::Value, texts: &mut Vec<String>) {
        match value {
            serde_json::Value::String(text) => texts.push(text),
            serde_json::Value::Array(values) => values.into_iter().for_each(|value| collect(value, texts)),
            serde_json::Value::Object(fields) => fields.into_iter().filter(|(name, _)| name != "stack").for_each(|(_, value)| collect(value, texts)),
            _ => {}
        }
    }
    let mut texts = Vec::new();
    collect(serde_json::from_slice(document).ok()?, &mut texts);
    Some(texts)
}

/// A cancelled run goes on where it saw the cancel: its clean-up has not happened.
pub(crate) fn for_resume(records: &[Recorded]) -> Vec<&Recorded> {
    since(records, |r| r.cancel_seen)
}

/// Of a run's open waits, those that a retry by its policy takes back: what was called after one of the forgotten. What waits beside them in other branches goes
/// on waiting, and its time with it.
pub(crate) fn waits_behind<'w>(gone: &[&Recorded], waits: &'w [Position]) -> Vec<&'w Position> {
    let calls = Calls::of(gone.iter().copied());
    let behind = |at: &Position| calls.one_is_before(&Recorded { at: at.clone(), done: i32::MAX, ..Recorded::default() });
    waits.iter().filter(|at| behind(at)).collect()
}

fn since(records: &[Recorded], start: impl Fn(&Recorded) -> bool) -> Vec<&Recorded> {
    let starts: Vec<&Recorded> = records.iter().filter(|r| start(r)).collect();
    let ends: HashSet<i32> = starts.iter().map(|s| s.done).collect();
    let (calls, decisions) = (Calls::of(starts.iter().copied()), Decisions::over(&starts));
    records.iter().filter(|r| ends.contains(&r.done) || calls.one_is_before(r) || decisions.was_made_by(r)).collect()
}

/// Calls by their place, so that thousands are asked for what came before or after them in as many steps as a branch is deep. A call stands in a line of
/// calls, the outermost first (see `line`); of two, the first place in the line where they part, and there it must be the same branch, says which the
/// program called later. It also completed later: what was under way already is no consequence.
struct Calls<'r> {
    /// By branch: (seq, the last completion of all at or behind it, the first of all at or before it).
    by_branch: HashMap<&'r str, Vec<(i32, i32, i32)>>,
}

impl<'r> Calls<'r> {
    fn of(records: impl Iterator<Item = &'r Recorded>) -> Self {
        let mut by_branch: HashMap<&str, Vec<(i32, i32, i32)>> = HashMap::new();
        for record in records {
            for (branch, seq) in line(&record.at) {
                by_branch.entry(branch).or_default().push((seq, record.done, record.done));
            }
        }
        for calls in by_branch.values_mut() {
            calls.sort_unstable_by_key(|(seq, ..)| *seq);
            let mut first = i32::MAX;
            for call in calls.iter_mut() {
                first = first.min(call.2);
                call.2 = first;
            }
            let mut last = i32::MIN;
            for call in calls.iter_mut().rev() {
                last = last.max(call.1);
                call.1 = last;
            }
        }
        Calls { by_branch }
    }

    /// Whether one of them was called after `of`: behind it in its branch, or behind a group its branch belongs to.
    fn one_is_after(&self, of: &Recorded) -> bool {
        line(&of.at).iter().any(|(branch, seq)| {
            let Some(calls) = self.by_branch.get(branch) else { return false };
            calls.get(calls.partition_point(|(other, ..)| other <= seq)).is_some_and(|(_, last, _)| *last > of.done)
        })
    }

    /// Whether `later` was called after one of them.
    fn one_is_before(&self, later: &Recorded) -> bool {
        line(&later.at).iter().any(|(branch, seq)| {
            let Some(calls) = self.by_branch.get(branch) else { return false };
            let before = calls.partition_point(|(other, ..)| other < seq);
            before > 0 && calls[before - 1].2 < later.done
        })
    }
}

/// The groups these calls stand in, each with the first completion in it.
struct Decisions<'r>(HashMap<(&'r str, i32), i32>);

impl<'r> Decisions<'r> {
    fn over(starts: &[&'r Recorded]) -> Self {
        let mut groups: HashMap<(&str, i32), i32> = HashMap::new();
        for start in starts {
            let mut line = line(&start.at);
            line.pop();
            for group in line {
                let first = groups.entry(group).or_insert(start.done);
                *first = start.done.min(*first);
            }
        }
        Decisions(groups)
    }

    /// `group` is the winner of an `any` or `race` that one of the calls stands in, decided later: another try may have another winner.
    fn was_made_by(&self, group: &Recorded) -> bool {
        self.0.get(&(&*group.at.branch, group.at.seq)).is_some_and(|first| group.done > *first)
    }
}

/// The calls a position stands in, outermost first: 3 of `/4/1/2/k:a` is 4 of the main branch, 2 of `/4/1`, 3 of `/4/1/2/k:a`. Keys hold no slash.
/// A branch names all it stands in: calls of one branch have the line before it in common.
fn line(at: &Position) -> Vec<(&str, i32)> {
    let branch = &*at.branch;
    let mut line = Vec::new();
    let mut end = 0;
    let mut parts = branch.split('/').skip(1);
    while let (Some(seq), Some(child)) = (parts.next(), parts.next()) {
        line.push((&branch[..end], seq.parse().unwrap_or(-1)));
        end += seq.len() + child.len() + 2;
    }
    line.push((branch, at.seq));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(branch: &str, seq: i32, done: i32) -> Recorded {
        Recorded { at: Position { segment: 0, branch: branch.into(), seq }, done, ..Recorded::default() }
    }

    fn failed(branch: &str, seq: i32, done: i32) -> Recorded {
        Recorded { failed: true, ..record(branch, seq, done) }
    }

    fn places(gone: Vec<&Recorded>) -> Vec<(String, i32)> {
        gone.into_iter().map(|r| (r.at.branch.to_string(), r.at.seq)).collect()
    }

    #[test]
    fn a_retry_keeps_what_succeeded_beside_the_failure() {
        let records = [record("", 0, 0), failed("/1/0", 0, 1), record("/1/1", 0, 2), record("/1/1", 1, 3)];
        assert_eq!(places(for_retry(&records, None, By::Person)), [("/1/0".to_string(), 0)]);
    }

    #[test]
    fn a_wait_beside_the_failure_goes_on_and_one_behind_it_does_not() {
        let at = |branch: &str, seq| Position { segment: 0, branch: branch.into(), seq };
        let waits = [at("/1/0", 1), at("/1/1", 0), at("", 2), at("", 0)];
        let gone = failed("/1/0", 0, 1);
        assert_eq!(waits_behind(&[&gone], &waits), [&waits[0], &waits[2]]);
    }

    #[test]
    fn a_retry_goes_on_at_every_failure_that_ended_its_branch() {
        let records = [failed("/0/k:a", 0, 0), record("/0/k:b", 0, 1), failed("/0/k:c", 1, 2)];
        assert_eq!(places(for_retry(&records, None, By::Person)), [("/0/k:a".to_string(), 0), ("/0/k:c".to_string(), 1)]);
    }

    #[test]
    fn a_retry_takes_back_what_was_called_after_the_last_failure() {
        let records = [failed("", 0, 0), record("", 1, 1), failed("/2/0/0/1", 0, 2), record("", 3, 3), record("/2/0", 1, 4)];
        assert_eq!(places(for_retry(&records, None, By::Person)), [("/2/0/0/1".to_string(), 0), (String::new(), 3), ("/2/0".to_string(), 1)]);
        assert!(for_retry(&records[1..2], None, By::Person).is_empty());
    }

    #[test]
    fn a_race_that_a_failure_won_is_run_again_and_one_it_lost_is_not() {
        let won = [record("/0/1", 0, 0), failed("/0/0", 0, 1), record("", 0, 2)];
        assert_eq!(places(for_retry(&won, None, By::Person)), [("/0/0".to_string(), 0), (String::new(), 0)]);
        let lost = [record("/0/1", 0, 0), record("", 0, 1), failed("/0/0", 0, 2), failed("", 1, 3)];
        assert!(!places(for_retry(&lost, None, By::Person)).contains(&(String::new(), 0)));
    }

    #[test]
    fn a_failure_that_was_dealt_with_stands_unless_the_run_ended_by_it() {
        let declined = Recorded { error: Some(br#"{"message":"card declined"}"#.to_vec()), ..failed("", 0, 0) };
        let records = [declined, record("", 1, 1), record("", 2, 2)];
        let gone = |error: &str| for_retry(&records, Some(error.as_bytes()), By::Policy).len();
        assert_eq!(gone(r#"{"message":"no stock"}"#), 0);
        assert_eq!(gone(r#"{"message":"card declined"}"#), 3);
        assert_eq!(gone(r#"{"message":"order 7: card declined"}"#), 3);
        assert_eq!(gone(r#"{"message":"refunded","cause":{"message":"card declined"}}"#), 3);
        assert_eq!(gone(r#"{"message":"no stock","stack":"card declined"}"#), 0);
        assert_eq!(gone("sealed"), 3, "what cannot be read may say anything");
    }

    #[test]
    fn a_policy_repeats_nothing_that_may_happen_once_only() {
        let records = [Recorded { at_most_once: true, ..failed("", 0, 0) }];
        assert!(for_retry(&records, None, By::Policy).is_empty());
        assert_eq!(for_retry(&records, None, By::Person).len(), 1);
    }

    #[test]
    fn a_resume_takes_back_the_clean_up() {
        let seen = Recorded { cancel_seen: true, ..record("/1/0", 2, 4) };
        let records = [record("", 0, 0), record("/1/0", 0, 1), seen, record("/1/1", 0, 5), record("", 2, 6)];
        assert_eq!(places(for_resume(&records)), [("/1/0".to_string(), 2), (String::new(), 2)]);
    }

    /// Two by two, as the words say it: too slow for a run of many records.
    fn follows(later: &Recorded, of: &Recorded) -> bool {
        let part = line(&later.at).into_iter().zip(line(&of.at)).find(|(one, other)| one != other);
        later.done > of.done && part.is_some_and(|((branch, seq), (other, its))| branch == other && seq > its)
    }

    #[test]
    fn what_follows_is_found_by_place_as_it_is_two_by_two() {
        let branches = ["", "/1/0", "/1/1", "/2/k:a", "/1/0/2/0", "/1/0/2/1"];
        let mut seed: u64 = 7;
        let mut any = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let records: Vec<Recorded> = (0..12).map(|_| record(branches[any(6) as usize], any(5) as i32, any(12) as i32)).collect();
            let (starts, calls) = (&records[..3], Calls::of(records.iter()));
            let decided = |group: &Recorded, of: &Recorded| {
                let (outer, inner) = (line(&group.at), line(&of.at));
                group.done > of.done && outer.len() < inner.len() && inner.starts_with(&outer)
            };
            for record in &records {
                assert_eq!(calls.one_is_after(record), records.iter().any(|other| follows(other, record)));
            }
            let want = records.iter().filter(|r| starts.iter().any(|s| s.done == r.done || follows(r, s) || decided(r, s)));
            let gone = since(&records, |r| starts.iter().any(|s| std::ptr::eq(s, r)));
            assert_eq!(gone.into_iter().map(std::ptr::from_ref).collect::<Vec<_>>(), want.map(std::ptr::from_ref).collect::<Vec<_>>());
        }
    }

    /// Looked at two by two these would take minutes.
    #[test]
    fn a_run_of_many_failures_is_retried() {
        let records: Vec<Recorded> = (0..40_000).map(|n| failed(&format!("/0/{n}"), 0, n)).collect();
        assert_eq!(for_retry(&records, None, By::Person).len(), records.len());
        let records: Vec<Recorded> = (0..40_000).map(|n| failed("", n, n)).collect();
        assert_eq!(for_retry(&records, None, By::Person).len(), 1);
    }
}
