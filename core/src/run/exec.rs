//! One execution of one run: what this process knows of it, and the one place where its completions are put in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::history::{History, Place, behind};
use super::retry::RetryPolicy;
use super::verdict;
use crate::engine::Outbox;
use crate::engine::identity::Placed;
use crate::key_map::KeyMap;
use crate::protocol::client::{Client, Event, TURN};
use crate::protocol::frame::Writer;
use crate::protocol::ops::event;
use crate::store::{CancelRequest, ClaimedRun, Effect, OpenWait, Position, RunKey, Site};

/// How far a call that is not recorded yet has come.
#[derive(Debug)]
pub enum Phase {
    /// Its digest stands at another place nobody has asked for yet: decided after the turn.
    Deferred,
    /// Something must be committed before it goes on: the row of a wait, the mark of an at-most-once step.
    Opening,
    /// The host runs the user's function.
    Running,
    /// Its record is on the way to the database.
    Recording,
    /// A failed attempt waits for the next.
    BackOff,
    Waiting(OpenWait),
    /// In a transaction on the user's or the engine's connection; its completion number is taken.
    InTransaction {
        done: i32,
        token: i64,
        conflicts: u32,
    },
}

#[derive(Debug)]
pub struct Call {
    /// Where the verdict goes.
    pub token: u64,
    pub kind: i16,
    pub site: Site,
    pub digest: Option<i64>,
    pub started: Instant,
    pub seen: i32,
    pub attempt: i32,
    pub policy: RetryPolicy,
    pub shielded: bool,
    pub phase: Phase,
}

#[derive(Debug, Default)]
pub struct Attempts {
    pub failed: i32,
    pub retry_in_ms: Option<i64>,
    /// The mark of an at-most-once step that was cut short.
    pub started: bool,
}

pub struct ExecState {
    pub epoch: i32,
    pub inbox: i32,
    /// Why this execution has ended; every call answers it and nothing is recorded.
    pub stopped: Option<&'static str>,
    pub cancel: Option<CancelRequest>,
    pub history: History,
    pub attempts: HashMap<Place, Attempts>,
    /// Waits that were open when the run was claimed: their deadlines go on where they were.
    pub open_waits: HashMap<Place, OpenWait>,
    pub calls: KeyMap<Place, Call>,
    seqs: KeyMap<Arc<str>, i32>,
    /// Winners by group, where they are known: everything under the group but not under its winner has ended.
    closed: HashMap<String, String>,
    /// `any` and `race` without a winner yet.
    pub groups: HashMap<Place, Call>,
    /// Runs whose events or ends it waited for when it last looked.
    pub watches: HashSet<RunKey>,
    /// Waits whose time is over: one last look, then that is recorded.
    pub overdue: HashSet<Place>,
    pub next_done: i32,
    /// The live completion to be handed out next.
    next_live: i32,
    /// Committed and not handed out yet, by `done`; None: a number given up.
    finished: BTreeMap<i32, Option<(u64, Vec<u8>)>>,
    turn_wanted: bool,
    /// The host was handed a completion and has made no call since: its code may be on its way to the next one.
    pub handed: bool,
    /// It has had more than one path of its code under way: that every call waits does not say that all of its code does. Code between two calls is seen by
    /// nobody, and a group's branches end without a word.
    pub concurrent: bool,
    pub finishing: bool,
    /// A release is on its way to the database.
    pub releasing: bool,
    pub has_children: bool,
    /// Holds none of its client's slots: everything waits.
    pub parked: bool,
    pub parked_since: Option<Instant>,
    /// While parked: whether it was counted among those that may be released.
    pub releasable: bool,
    /// A look at what the waits would get is under way; true: look again after it.
    pub looking: Option<bool>,
    pub drift_warned: bool,
}

pub struct Exec {
    pub id: u64,
    pub run: RunKey,
    pub root: RunKey,
    pub workflow: Arc<str>,
    pub queue: Arc<str>,
    pub segment: i32,
    pub run_attempt: i32,
    pub new_effects: i32,
    pub client: Arc<Client>,
    pub client_id: u32,
    pub lane: usize,
    pub deadline: Option<Instant>,
    pub retry: RetryPolicy,
    pub on_finish: Option<String>,
    pub trace_parent: Option<String>,
    pub parent: Option<RunKey>,
    /// Its processes died twice without progress: the first record clears it.
    pub crashes: i32,
    /// Of the history it was made with, until it has been replayed.
    pub history_bytes: AtomicI64,
    /// The first completion that is this execution's own.
    pub first_done: i32,
    state: Mutex<ExecState>,
}

/// What an execution is made with besides its claimed run.
pub struct ExecSetup {
    pub id: u64,
    pub client: Arc<Client>,
    pub client_id: u32,
    pub lane: usize,
    pub retry: RetryPolicy,
    pub on_finish: Option<String>,
}

impl Exec {
    pub fn new(run: ClaimedRun, setup: ExecSetup) -> (Exec, Claimed) {
        let mut attempts: HashMap<Place, Attempts> = HashMap::new();
        for a in &run.attempts {
            let entry = attempts.entry((a.at.branch.clone(), a.at.seq)).or_default();
            if a.started {
                entry.started = true;
            } else {
                entry.failed = entry.failed.max(a.attempt);
                entry.retry_in_ms = a.retry_in_ms;
            }
        }
        let open_waits = run.waits.into_iter().map(|w| ((w.at.branch.clone(), w.at.seq), w)).collect();
        // What a retry or a rewind has forgotten is still its child, though no record tells of it.
        let has_children = run.has_children || run.steps.iter().any(|s| s.kind == crate::protocol::ops::kind::CHILD && !s.failed);
        let history = History::new(run.steps);
        let next_done = history.next_done();
        let replaying = history.replaying();
        let exec = Exec {
            id: setup.id,
            run: run.key,
            root: run.root,
            workflow: run.route.workflow.as_str().into(),
            queue: run.route.queue.as_str().into(),
            segment: run.segment,
            run_attempt: run.run_attempt,
            new_effects: run.new_effects,
            client: setup.client,
            client_id: setup.client_id,
            lane: setup.lane,
            deadline: run.deadline_in_ms.and_then(|ms| Instant::now().checked_add(std::time::Duration::from_millis(ms.max(0) as u64))),
            retry: setup.retry,
            on_finish: setup.on_finish,
            trace_parent: run.trace_parent.clone(),
            parent: run.parent,
            crashes: run.crashes,
            history_bytes: AtomicI64::new(history.bytes() as i64),
            first_done: next_done,
            state: Mutex::new(ExecState {
                epoch: run.epoch,
                inbox: run.inbox,
                stopped: None,
                cancel: run.cancel,
                history,
                attempts,
                open_waits,
                calls: KeyMap::default(),
                seqs: KeyMap::default(),
                closed: HashMap::new(),
                groups: HashMap::new(),
                watches: HashSet::new(),
                overdue: HashSet::new(),
                next_done,
                next_live: next_done,
                finished: BTreeMap::new(),
                turn_wanted: false,
                handed: false,
                concurrent: false,
                finishing: false,
                releasing: false,
                has_children,
                parked: false,
                parked_since: None,
                releasable: false,
                looking: None,
                drift_warned: false,
            }),
        };
        let claimed = Claimed {
            id_text: run.id_text,
            input: run.input,
            attributes: run.attributes,
            trace_parent: run.trace_parent,
            deadline_in_ms: run.deadline_in_ms,
            replaying,
        };
        (exec, claimed)
    }

    pub fn lock(&self) -> MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process died with it, and it has recorded nothing since: another death counts against it.
    pub fn is_struck(&self, st: &ExecState) -> bool {
        self.crashes > 0 && st.next_done == self.first_done
    }

    pub fn position(&self, place: &Place) -> Position {
        Position { segment: self.segment, branch: place.0.clone(), seq: place.1 }
    }

    /// For what is derived from a call's place.
    pub fn placed<'a>(&self, at: &'a Position) -> Placed<'a> {
        Placed { run: self.run, at, new_effects: self.new_effects }
    }

    /// An event for this execution's host, under the execution's own id.
    pub fn tell(&self, kind: u32, frame: Vec<u8>, out: &mut Outbox) {
        out.push(&self.client, Event { token: self.id, kind, frame });
    }

    /// End this execution. The host drops it; whatever it still does counts for nothing.
    pub fn stop(&self, st: &mut ExecState, why: &'static str, message: &str, out: &mut Outbox) {
        if st.stopped.is_some() {
            return;
        }
        st.stopped = Some(why);
        let mut w = Writer::new();
        w.str(why).str(message);
        self.tell(event::STOP, w.finish(), out);
        self.answer_open_calls(st, why, out);
    }

    /// It goes no further here. What it began and did not wait for (the loser of a raw race), and what still stood behind other completions, is answered too,
    /// or its host would hold each for good.
    pub fn answer_open_calls(&self, st: &mut ExecState, why: &'static str, out: &mut Outbox) {
        let open = st.calls.drain().map(|(_, call)| call.token);
        let finished = std::mem::take(&mut st.finished).into_values().flatten().map(|(token, _)| token);
        for token in open.chain(finished).chain(st.history.give_up_waiting()) {
            out.push(&self.client, Event { token, kind: event::COMPLETED, frame: verdict::stopped(why) });
        }
    }

    /// A call has its verdict, `done` in the order of completions; `out` gets it when its turn has come.
    pub fn complete(&self, st: &mut ExecState, place: &Place, done: i32, frame: Vec<u8>, out: &mut Outbox) {
        let item = st.calls.remove(place).map(|call| (call.token, frame));
        st.handed = true;
        st.finished.insert(done, item);
        self.pump(st, out);
    }

    /// A completion number that was taken and came to nothing (a rolled back transaction).
    pub fn give_up_number(&self, st: &mut ExecState, done: i32, out: &mut Outbox) {
        st.finished.insert(done, None);
        self.pump(st, out);
    }

    fn pump(&self, st: &mut ExecState, out: &mut Outbox) {
        while let Some((token, frame, turn)) = st.next_live(self.client.ordered) {
            let kind = event::COMPLETED + if turn { TURN } else { 0 };
            out.push(&self.client, Event { token, kind, frame });
        }
    }

    /// One turn of the host's loop has passed. Returns (more, completion).
    pub fn turn(&self, st: &mut ExecState) -> (bool, Option<(u64, Vec<u8>)>) {
        st.turn_wanted = false;
        if let Some((token, record)) = st.history.turn() {
            let cancelled = record.kind == crate::protocol::ops::kind::CANCEL_SEEN;
            let frame = if cancelled { st.cancelled() } else { super::begin::replayed(&record, record.at.seq) };
            // What follows from it has not run yet and may ask for the next record. A live completion that came in between would overtake that one, on a
            // thread of the engine's, so there is always one more turn behind a recorded completion.
            st.turn_wanted = true;
            return (true, Some((token, frame)));
        }
        if st.history.anyone_waiting() {
            st.turn_wanted = true;
            return (true, None);
        }
        match st.next_live(true) {
            Some((token, frame, more)) => (more, Some((token, frame))),
            None => (false, None),
        }
    }
}

/// What of a claimed run only the host needs.
pub struct Claimed {
    pub id_text: Option<String>,
    pub input: crate::store::Payload,
    pub attributes: Option<String>,
    pub trace_parent: Option<String>,
    pub deadline_in_ms: Option<i64>,
    pub replaying: bool,
}

impl ExecState {
    /// How many completions the host has been handed, as calls record it.
    pub fn seen(&self) -> i32 {
        self.history.cursor().unwrap_or(self.next_live)
    }

    pub fn take_done(&mut self) -> i32 {
        let done = self.next_done;
        self.next_done += 1;
        done
    }

    /// The place of the next call in this branch.
    pub fn next_place(&mut self, branch: &str) -> Place {
        let known = self.seqs.get_key_value(branch).map(|(name, _)| name.clone());
        if let (Some(name), Some(seq)) = (known, self.seqs.get_mut(branch)) {
            *seq += 1;
            return (name, *seq - 1);
        }
        let name: Arc<str> = branch.into();
        self.seqs.insert(name.clone(), 1);
        (name, 0)
    }

    /// The place of a call that was begun: the branch's name is there already.
    pub fn place(&self, branch: &str, seq: i32) -> Place {
        (self.seqs.get_key_value(branch).map_or_else(|| branch.into(), |(name, _)| name.clone()), seq)
    }

    /// What the next call's place would be, without taking it.
    pub fn peek_place(&self, branch: &str) -> Place {
        match self.seqs.get_key_value(branch) {
            Some((name, seq)) => (name.clone(), *seq),
            None => (branch.into(), 0),
        }
    }

    /// Whether a wait or an attempt from before is open at this place or behind it in its branch.
    pub fn open_behind(&self, place: &Place) -> bool {
        self.open_waits.keys().chain(self.attempts.keys()).any(|p| behind(p, place))
    }

    /// A wait of an execution before this one, at a call that ends otherwise now: its row is to go.
    pub fn forget_open_wait(&mut self, place: &Place) -> Vec<Effect> {
        self.open_waits.remove(place).map(|_| Effect::CloseWait).into_iter().collect()
    }

    /// The verdict of a call that the cancel ends.
    pub fn cancelled(&self) -> Vec<u8> {
        let (by, why) = self.cancel.as_ref().map_or(("", ""), |c| (c.by.as_str(), c.why.as_str()));
        verdict::cancelled(by, why)
    }

    /// Nothing else of this run is in flight: what is answered now overtakes nothing.
    pub fn alone(&self) -> bool {
        self.calls.is_empty() && self.finished.is_empty() && !self.history.replaying()
    }

    pub fn branch_closed(&self, branch: &str) -> bool {
        if self.closed.is_empty() {
            return false;
        }
        // By its ancestors: a workflow that polls with races has decided one for each turn.
        let ends = branch.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([branch.len()]);
        ends.map(|end| &branch[..end]).any(|group| self.closed.get(group).is_some_and(|winner| !under(branch, winner)))
    }

    /// A group is decided: what still runs in its other branches has lost.
    pub fn close_group(&mut self, group: String, winner: String) -> Vec<Place> {
        self.closed.insert(group, winner);
        self.calls.keys().filter(|p| self.branch_closed(&p.0)).cloned().collect()
    }

    pub fn leave_branch(&mut self, branch: &str) {
        self.seqs.retain(|b, _| !under(b, branch));
    }

    fn next_live(&mut self, ordered: bool) -> Option<(u64, Vec<u8>, bool)> {
        if !ordered {
            while let Some((_, item)) = self.finished.pop_first() {
                if let Some((token, frame)) = item {
                    return Some((token, frame, false));
                }
            }
            return None;
        }
        // While recorded completions wait for their turn, the host's turns bring everything; live ones stand behind them.
        while !self.turn_wanted && !self.history.anyone_waiting() {
            let item = self.finished.remove(&self.next_live)?;
            self.history.skip_unasked();
            self.next_live += 1;
            if let Some((token, frame)) = item {
                // Alone in flight: nothing could overtake it, so no turn is asked for.
                let more = !self.calls.is_empty() || !self.finished.is_empty();
                self.turn_wanted = more;
                return Some((token, frame, more));
            }
        }
        None
    }

    /// No completion waits for its turn to be handed out.
    pub fn nothing_on_its_way(&self) -> bool {
        self.stopped.is_none() && !self.finishing && self.finished.is_empty() && !self.history.anyone_waiting()
    }

    /// Everything that is open waits, and nothing is on its way to the host or the database.
    pub fn all_waiting(&self) -> bool {
        !self.calls.is_empty() && self.nothing_on_its_way() && self.calls.values().all(|c| matches!(c.phase, Phase::Waiting(_) | Phase::BackOff))
    }
}

/// Whether `branch` is `ancestor` or stands below it.
pub fn under(branch: &str, ancestor: &str) -> bool {
    branch.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked, recorded};
    use crate::protocol::ops::kind;

    #[test]
    fn who_is_stopped_has_no_call_without_an_answer() {
        let h = ByHand::open(true);
        let exec = h.claim(|run| run.steps = vec![recorded(0, b"1")]);
        // One call waits for its turn, another is done and stands behind it.
        exec.begin_step(&h.engine, asked("", 1, kind::STEP, "s"), &mut Outbox::default()).unwrap();
        exec.lock().finished.insert(7, Some((2, vec![])));
        exec.stop(&mut exec.lock(), "lease_lost", "", &mut Outbox::default());
        let mut told: Vec<u64> = h.told().iter().filter(|e| e.kind == event::COMPLETED).map(|e| e.token).collect();
        told.sort_unstable();
        assert_eq!(told, [1, 2]);
    }
}
