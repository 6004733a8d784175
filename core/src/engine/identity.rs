//! Keys and hashes: what names a run, a step for the outside world, a route and a call site (design `semantics.md` §1, §2).

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::{EngineError, Result};
use crate::protocol::errors::Code;
use crate::store::{Position, Route, RunKey, Site};

/// Ids and names: 1..=255 bytes of UTF-8 without control characters, the same rule at every entry.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(EngineError::new(
            Code::IdInvalid,
            format!(
                "{what} must be 1 to 255 bytes of UTF-8 without control characters; got {} bytes{}",
                name.len(),
                if name.chars().any(char::is_control) { " with a control character" } else { "" }
            ),
        ));
    }
    Ok(())
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Sha256::new();
    for part in parts {
        h.update((part.len() as u64).to_be_bytes());
        h.update(part);
    }
    h.finalize().into()
}

fn first_16(h: [u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| h[i])
}

fn first_i64(h: [u8; 32]) -> i64 {
    i64::from_be_bytes(std::array::from_fn(|i| h[i]))
}

/// The key of a user's id: UUIDv8 of SHA-256 over (namespace, 0, id).
pub fn run_key(namespace: &str, id: &str) -> RunKey {
    let mut h = Sha256::new();
    h.update(namespace.as_bytes());
    h.update([0]);
    h.update(id.as_bytes());
    Uuid::new_v8(first_16(h.finalize().into()))
}

/// Where a call stands, for what is derived from it: `new_effects` counts the rewinds that asked for other keys than before.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    pub run: RunKey,
    pub at: &'a Position,
    pub new_effects: i32,
}

impl Placed<'_> {
    fn key(&self, what: &[u8], of: &[&[u8]]) -> Uuid {
        let (segment, seq, again) = (self.at.segment.to_be_bytes(), self.at.seq.to_be_bytes(), self.new_effects.to_be_bytes());
        let mut parts = vec![what, self.run.as_bytes(), &segment, self.at.branch.as_bytes(), &seq];
        parts.extend(of);
        if self.new_effects > 0 {
            parts.push(&again);
        }
        Uuid::new_v8(first_16(hash(&parts)))
    }

    /// The same in each attempt, takeover, release, resume, retry and rewind, but for a rewind that asks for new effects.
    pub fn idempotency_key(&self) -> Uuid {
        self.key(b"step", &[])
    }

    /// A child's key, so that a start repeated after an unknown outcome is the same child. Of what is started too: changed code that starts something else at
    /// a place that was rewound must not meet the child of before.
    pub fn child_key(&self, workflow: &str, input: &[u8]) -> RunKey {
        self.key(b"child", &[workflow.as_bytes(), input])
    }

    /// The id of a message a workflow sends: of its place, and of what is sent too. At a place that was forgotten (a retry, a rewind) another path may say
    /// something else, which is another message.
    pub fn sent_key(&self, to: RunKey, topic: &str, value: &[u8]) -> Uuid {
        self.key(b"sent", &[to.as_bytes(), topic.as_bytes(), value])
    }
}

/// A message's id: the same for the same (receiver, key), so that a repeated send is the same message.
pub fn message_key(run: RunKey, idempotency_key: &str) -> Uuid {
    Uuid::new_v8(first_16(hash(&[b"message", run.as_bytes(), idempotency_key.as_bytes()])))
}

/// The run that `on_finish` starts.
pub fn finish_key(run: RunKey, epoch: i32) -> RunKey {
    Uuid::new_v8(first_16(hash(&[b"finish", run.as_bytes(), &epoch.to_be_bytes()])))
}

/// Digest of (name, arguments, key); None when there is neither.
pub fn digest(name: &str, arguments: Option<&[u8]>, key: Option<&str>) -> Option<i64> {
    if arguments.is_none() && key.is_none() {
        return None;
    }
    Some(first_i64(hash(&[name.as_bytes(), arguments.unwrap_or_default(), key.unwrap_or_default().as_bytes()])))
}

pub fn route(namespace: &str, queue: &str, workflow: &str, label: &str) -> Route {
    let id = first_i64(hash(&[b"route", namespace.as_bytes(), queue.as_bytes(), workflow.as_bytes(), label.as_bytes()]));
    Route { id, queue: queue.into(), workflow: workflow.into(), label: label.into() }
}

/// A queue's own number, for hints that are about all its routes.
pub fn queue_number(namespace: &str, queue: &str) -> i64 {
    first_i64(hash(&[b"queue", namespace.as_bytes(), queue.as_bytes()]))
}

fn site(name: &str, location: &str) -> Site {
    let id = first_i64(hash(&[b"site", name.as_bytes(), location.as_bytes()]));
    Site { id, name: name.into(), location: location.into() }
}

/// The sites of this process by name, then location.
#[derive(Default)]
pub struct Sites {
    by_name: HashMap<Box<str>, HashMap<Box<str>, Site>>,
    count: usize,
}

/// Names of steps may be made at run time; past this many the memory starts afresh.
const REMEMBERED: usize = 10_000;

impl Sites {
    pub fn get(&self, name: &str, location: &str) -> Option<&Site> {
        self.by_name.get(name)?.get(location)
    }

    pub fn make(&mut self, name: &str, location: &str) -> Site {
        if self.count >= REMEMBERED {
            *self = Sites::default();
        }
        self.count += 1;
        self.by_name.entry(name.into()).or_default().entry(location.into()).or_insert_with(|| site(name, location)).clone()
    }
}

/// The known name nearest to a mistyped one, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|k| (distance(name, k), k)).min().filter(|(d, k)| *d <= 1 + k.len().max(name.len()) / 3).map(|(_, k)| k)
}

/// The known name that this one is probably a mistyping of: one slip in five letters or more, two in nine, three in thirteen. Names that differ
/// only in their numbers are different names on purpose (`report_v1`, `report_v2`).
pub fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let words = |text: &str| text.chars().filter(|c| !c.is_numeric()).collect::<String>();
    let slips = |k: &str| (name.chars().count().max(k.chars().count()).saturating_sub(1) / 4).min(3);
    known.filter(|k| words(k) != words(name)).map(|k| (distance(name, k), k)).min().filter(|(d, k)| *d <= slips(k)).map(|(_, k)| k)
}

/// Levenshtein distance in which two neighbours changed for each other count as one.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let a: Vec<char> = a.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_id_is_one_key_in_one_namespace() {
        assert_eq!(run_key("a", "order-1"), run_key("a", "order-1"));
        assert_ne!(run_key("a", "order-1"), run_key("b", "order-1"));
        assert_eq!(run_key("a", "order-1").get_version_num(), 8);
    }

    #[test]
    fn positions_have_different_idempotency_keys() {
        let run = Uuid::now_v7();
        let at = |branch: &str, seq| Position { segment: 0, branch: branch.into(), seq };
        let key = |branch: &str, seq, new_effects| Placed { run, at: &at(branch, seq), new_effects }.idempotency_key();
        assert_eq!(key("", 1, 0), key("", 1, 0));
        assert_ne!(key("", 1, 0), key("", 2, 0));
        assert_ne!(key("/1/0", 1, 0), key("/1/1", 1, 0));
        assert!(key("", 1, 1) != key("", 1, 0) && key("", 1, 1) != key("", 1, 2));
        let sent = |value: &[u8]| Placed { run, at: &at("", 1), new_effects: 0 }.sent_key(run, "t", value);
        assert!(sent(b"1") == sent(b"1") && sent(b"1") != sent(b"2"));
    }

    #[test]
    fn names_are_checked_and_the_nearest_is_found() {
        assert!(check_name("id", "").is_err());
        assert!(check_name("id", &"x".repeat(256)).is_err());
        assert!(check_name("id", "a\0b").is_err());
        assert!(check_name("id", "a\u{85}b").is_err());
        assert!(check_name("id", "order 1 / é").is_ok());
        assert_eq!(nearest("chekout", ["checkout", "refund"].into_iter()), Some("checkout"));
        assert_eq!(nearest("zzz", ["checkout", "refund"].into_iter()), None);
    }

    #[test]
    fn a_mistyped_name_is_told_from_another_name() {
        let known = ["checkout", "report_v1", "interpret", "mail", "greet"];
        for (typed, meant_name) in [("chekout", "checkout"), ("chekcout", "checkout"), ("Checkout", "checkout"), ("inteprret", "interpret"), ("gret", "greet")]
        {
            assert_eq!(meant(typed, known.into_iter()), Some(meant_name), "{typed}");
        }
        for other in ["report_v2", "checkout_v2", "refund", "other", "mall", "x", "checkin"] {
            assert_eq!(meant(other, known.into_iter()), None, "{other}");
        }
    }
}
