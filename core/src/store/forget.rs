//! Which records a run loses when it goes on from an earlier point. Pure, and one for both stores.
//!
//! A retry and a resume take back what the program called *after* the record they go on at. Rejected: what completed after it. Beside it in other branches
//! stand calls that know nothing of it, and a transaction among them would happen twice. Neither is a failure forgotten that the program has dealt with: what
//! it called then, it would call again.

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
    let unhandled = |r: &Recorded| !records.iter().any(|other| follows(other, r));
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

fn since(records: &[Recorded], start: impl Fn(&Recorded) -> bool) -> Vec<&Recorded> {
    let starts: Vec<&Recorded> = records.iter().filter(|r| start(r)).collect();
    records.iter().filter(|r| starts.iter().any(|s| s.done == r.done || follows(r, s) || was_decided_by(r, s))).collect()
}

/// `later` was called after `of`, as the order of the program tells: behind it in its branch, or behind a group its branch belongs to.
fn follows(later: &Recorded, of: &Recorded) -> bool {
    if later.done <= of.done {
        return false;
    }
    for ((branch, seq), (other, its)) in line(&later.at).into_iter().zip(line(&of.at)) {
        if branch != other {
            return false;
        }
        if seq != its {
            return seq > its;
        }
    }
    false
}

/// `group` is the winner of an `any` or `race` that `of` stands in, decided later: another try may have another winner.
fn was_decided_by(group: &Recorded, of: &Recorded) -> bool {
    let (outer, inner) = (line(&group.at), line(&of.at));
    group.done > of.done && outer.len() < inner.len() && inner.starts_with(&outer)
}

/// The calls a position stands in, outermost first: 3 of `/4/1/2/k:a` is 4 of the main branch, 2 of `/4/1`, 3 of `/4/1/2/k:a`. Keys hold no slash.
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
}
