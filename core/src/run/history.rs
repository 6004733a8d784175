//! The replay cursor: what is recorded, by position, and in which order its completions are handed out again.
//!
//! Raw concurrency (`gather`, `Promise.all`) replays as it ran because three things are recorded with each call: its position, the number of
//! its completion (`done`), and how many completions the run had been handed when the call was made (`seen`). A completion is handed out
//! only when every recorded call that was made before it then has been made again now. Rejected: handing out by `done` alone, one a turn;
//! a consequence that takes three turns of the loop would then fall behind one that takes a single turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::store::StepRecord;

pub type Place = (Arc<str>, i32);

#[derive(Debug, Default)]
pub struct History {
    records: HashMap<Place, StepRecord>,
    /// Not yet handed out, by `done`.
    order: VecDeque<(i32, Place)>,
    /// `seen` of all records, sorted.
    seens: Vec<i32>,
    begun: usize,
    /// Called again and waiting for their turn.
    waiting: HashMap<Place, u64>,
    digests: HashMap<i64, Vec<Place>>,
    idle_turns: u32,
}

/// Turns without a new call after which a completion is handed out although a call recorded before it has not come again: its code is gone,
/// or was in flight when the process died. A mismatch, if it is one, is found at the next call.
const PATIENCE: u32 = 3;

/// Whether `other` stands at `place`, behind it, or in a branch that a group there has opened: an `all` and an undecided `race` record nothing at their own.
pub fn behind(other: &Place, place: &Place) -> bool {
    if other.0 == place.0 {
        return other.1 >= place.1;
    }
    let below = other.0.strip_prefix(&*place.0).and_then(|rest| rest.strip_prefix('/'));
    below.and_then(|rest| rest.split('/').next()?.parse::<i32>().ok()).is_some_and(|seq| seq >= place.1)
}

impl History {
    pub fn new(steps: Vec<StepRecord>) -> Self {
        let mut h = History::default();
        h.extend(steps);
        h
    }

    fn extend(&mut self, steps: Vec<StepRecord>) {
        for record in steps {
            let place = (record.at.branch.clone(), record.at.seq);
            self.order.push_back((record.done, place.clone()));
            self.seens.push(record.seen);
            if let Some(d) = record.digest {
                self.digests.entry(d).or_default().push(place.clone());
            }
            self.records.insert(place, record);
        }
        self.order.make_contiguous().sort_unstable_by_key(|(done, _)| *done);
        self.seens.sort_unstable();
    }

    /// The number after the last recorded completion: where live ones go on.
    pub fn next_done(&self) -> i32 {
        self.order.back().map_or(0, |(done, _)| done + 1)
    }

    /// The completion to be handed out next, as `seen` counts them; None when all are.
    pub fn cursor(&self) -> Option<i32> {
        self.order.front().map(|(done, _)| *done)
    }

    pub fn replaying(&self) -> bool {
        !self.order.is_empty()
    }

    pub fn anyone_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn get(&self, place: &Place) -> Option<&StepRecord> {
        self.records.get(place)
    }

    /// Where else in its branch this digest stands among records whose call has not come again. Other branches are other items:
    /// two of them may well make the same call.
    pub fn elsewhere(&self, digest: i64, than: &Place) -> Option<&StepRecord> {
        let places = self.digests.get(&digest)?.iter();
        places.filter(|p| p.0 == than.0 && p.1 != than.1 && !self.waiting.contains_key(*p)).find_map(|p| self.records.get(p))
    }

    /// Whether a recorded call of this name, without arguments and key, has come again in this branch and waits for its turn.
    pub fn waits_undigested(&self, branch: &str, name: &str) -> bool {
        let mut waiting = self.waiting.keys().filter(|p| *p.0 == *branch).filter_map(|p| self.records.get(p));
        waiting.any(|r| r.digest.is_none() && *r.site.name == *name)
    }

    /// Whether anything is recorded at or behind this place in its branch.
    pub fn goes_on_behind(&self, place: &Place) -> bool {
        self.records.keys().any(|p| behind(p, place))
    }

    /// The call has come again; its completion waits for its turn.
    pub fn wait(&mut self, place: Place, token: u64) {
        self.begun += 1;
        self.idle_turns = 0;
        self.waiting.insert(place, token);
    }

    /// Take a record at once (unordered hosts, cancel marks, groups).
    pub fn take(&mut self, place: &Place) -> Option<StepRecord> {
        let record = self.records.remove(place)?;
        self.begun += 1;
        self.idle_turns = 0;
        if self.order.front().is_some_and(|(_, p)| p == place) {
            self.order.pop_front();
        } else {
            self.order.retain(|(_, p)| p != place);
        }
        Some(record)
    }

    /// One turn of the host's loop has passed: the next completion, if it may be handed out.
    pub fn turn(&mut self) -> Option<(u64, StepRecord)> {
        if self.waiting.is_empty() {
            return None;
        }
        let Some((done, place)) = self.order.front() else { return self.late() };
        let needed = self.seens.partition_point(|seen| seen <= done);
        let ripe = self.waiting.contains_key(place) && self.begun >= needed;
        let at = if ripe {
            0
        } else {
            self.idle_turns += 1;
            if self.idle_turns < PATIENCE {
                return None;
            }
            self.order.iter().position(|(_, p)| self.waiting.contains_key(p))?
        };
        self.idle_turns = 0;
        let (_, place) = self.order.remove(at)?;
        let token = self.waiting.remove(&place)?;
        self.records.remove(&place).map(|record| (token, record))
    }

    /// A recorded call that came again only after live completions had been handed out: what was left of the order had been given up for them.
    fn late(&mut self) -> Option<(u64, StepRecord)> {
        let done = |place: &&Place| self.records.get(*place).map_or(i32::MAX, |record| record.done);
        let place = self.waiting.keys().min_by_key(done).cloned()?;
        let token = self.waiting.remove(&place)?;
        self.records.remove(&place).map(|record| (token, record))
    }

    /// Give up a waiting call (its branch was closed).
    pub fn forget_waiting(&mut self, place: &Place) {
        self.waiting.remove(place);
    }

    /// Tokens of all calls that wait for their turn: it never comes.
    pub fn give_up_waiting(&mut self) -> Vec<u64> {
        self.waiting.drain().map(|(_, token)| token).collect()
    }

    /// Records under this branch will not come again: the branch lost its race.
    pub fn drop_branches(&mut self, gone: impl Fn(&str) -> bool) {
        let places: Vec<Place> = self.records.keys().filter(|p| gone(&p.0)).cloned().collect();
        for place in places {
            if let Some(record) = self.records.remove(&place) {
                self.order.retain(|(_, p)| *p != place);
                if let Ok(i) = self.seens.binary_search(&record.seen) {
                    self.seens.remove(i);
                }
            }
        }
    }

    /// Everything left that no call asks for: live completions go on behind it.
    pub fn skip_unasked(&mut self) {
        if self.waiting.is_empty() {
            self.order.clear();
            self.seens.clear();
        }
    }

    pub fn bytes(&self) -> usize {
        self.records.values().map(|r| r.output.data.len() + 200).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Payload, Position, Site};

    fn record(seq: i32, done: i32, seen: i32) -> StepRecord {
        StepRecord {
            at: Position { segment: 0, branch: "".into(), seq },
            kind: 1,
            site: Site { id: 1, name: "s".into(), location: "".into() },
            digest: Some(seq.into()),
            failed: false,
            done,
            seen,
            attempt: 1,
            took_us: 0,
            token: 0,
            written_by: uuid::Uuid::nil(),
            epoch: 1,
            recorded_at: 0,
            output: Payload::default(),
        }
    }

    fn place(seq: i32) -> Place {
        ("".into(), seq)
    }

    #[test]
    fn a_replayed_call_without_arguments_is_in_flight_until_its_turn() {
        let mut h = History::new(vec![StepRecord { digest: None, ..record(0, 0, 0) }, record(1, 1, 0)]);
        assert!(!h.waits_undigested("", "s"));
        h.wait(place(0), 10);
        h.wait(place(1), 11);
        assert!(h.waits_undigested("", "s") && !h.waits_undigested("", "t") && !h.waits_undigested("/0/0", "s"));
        assert_eq!(h.turn().map(|t| t.0), Some(10));
        assert!(!h.waits_undigested("", "s"), "call 1 waits, and has a digest");
    }

    #[test]
    fn completions_come_in_recorded_order_and_wait_for_the_calls_made_before_them() {
        // Three calls made at once (0, 1, 2); 1 completed first and led to call 3; then 0 completed.
        let mut h = History::new(vec![record(0, 1, 0), record(1, 0, 0), record(2, 3, 0), record(3, 2, 1)]);
        h.wait(place(0), 10);
        h.wait(place(1), 11);
        assert!(h.turn().is_none(), "call 2 was made before the first completion and has not come again");
        h.wait(place(2), 12);
        assert_eq!(h.turn().map(|t| t.0), Some(11));
        assert!(h.turn().is_none(), "call 3 follows completion 0 and was made before completion 1");
        h.wait(place(3), 13);
        assert_eq!(h.turn().map(|t| t.0), Some(10));
        assert_eq!(h.turn().map(|t| t.0), Some(13));
        assert_eq!(h.turn().map(|t| t.0), Some(12));
        assert!(!h.replaying());
    }

    #[test]
    fn a_call_that_never_comes_again_does_not_hold_the_others_for_ever() {
        let mut h = History::new(vec![record(0, 0, 0), record(1, 1, 0)]);
        h.wait(place(1), 11);
        let turns = (1..10).find(|_| h.turn().is_some());
        assert_eq!(turns, Some(PATIENCE as i32));
    }

    #[test]
    fn a_recorded_call_that_comes_after_a_live_completion_is_answered() {
        let mut h = History::new(vec![record(0, 0, 0), record(1, 1, 0), record(2, 2, 0)]);
        h.wait(place(0), 10);
        while h.turn().is_none() {}
        h.skip_unasked();
        h.wait(place(2), 12);
        h.wait(place(1), 11);
        assert_eq!(h.turn().map(|t| t.0), Some(11));
        assert_eq!(h.turn().map(|t| t.0), Some(12));
        assert!(!h.anyone_waiting());
    }

    #[test]
    fn what_stands_in_the_branches_of_a_group_stands_behind_its_place() {
        let at = |branch: &str, seq| (Arc::from(branch), seq);
        for other in [at("", 1), at("", 2), at("/1/0", 0), at("/2/k:a", 0), at("/1/0/0/3", 7)] {
            assert!(behind(&other, &at("", 1)), "{other:?}");
        }
        for other in [at("", 0), at("/0/1", 5), at("/10", 0).clone()] {
            assert_eq!(behind(&other, &at("", 1)), other.0.starts_with("/10"), "{other:?}");
        }
        assert!(behind(&at("/1/0/2/1", 0), &at("/1/0", 2)) && !behind(&at("/1/1", 9), &at("/1/0", 0)));
    }

    #[test]
    fn the_records_of_a_lost_branch_are_not_waited_for() {
        let mut lost = record(0, 0, 0);
        lost.at.branch = "/0/1".into();
        let mut h = History::new(vec![lost, record(1, 1, 1)]);
        h.drop_branches(|b| b.starts_with("/0/1"));
        h.wait(place(1), 11);
        assert_eq!(h.turn().map(|t| t.0), Some(11));
    }
}
