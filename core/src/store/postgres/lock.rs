//! The one locking pass: the lane's lease row, then every run row the batch touches, in key order.

use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{column, read, state, unless};
use crate::failpoint::mutated;
use crate::key_map::KeyMap;
use crate::store::{Result, RunKey, RunState};

/// `l.ok is not null` keeps the join order: lease before runs. `offset 0` keeps the look-up a look-up. A run that is as its writer expects
/// (`epoch`, ours, executing, with nothing beside its row) is locked and not answered: in a batch of checkpoints that is every row.
macro_rules! lock {
    ($lease:literal, $run:literal) => {
        concat!(
            "select l.ok, u.id, r.owner, r.epoch, r.state, r.inbox, r.route, r.priority, r.slotted, r.timed, r.keyed, r.run_attempt, r.segment
from (select ",
            $lease,
            " as ok offset 0) l
cross join unnest($3::uuid[], $4::int[]) as u(id, epoch)
left join lateral (select * from {s}.run r where r.id = u.id and l.ok is not null",
            $run,
            " offset 0) r on true
where not l.ok or u.epoch is null or r.owner is distinct from $1 or r.epoch <> u.epoch or r.state not in (2, 4) or r.slotted or r.timed or r.keyed"
        )
    };
}

const LOCK: &str = lock!("coalesce((select true from {s}.lease x where x.incarnation = $1 and x.lane = $2 for key share), false)", " for no key update");

/// With one of the two locks taken out: for the suite, which must notice (`failpoint::MUTATIONS`).
const WITHOUT_LEASE: &str = lock!("$2::smallint is not null", " for no key update");
const WITHOUT_RUN: &str = lock!("coalesce((select true from {s}.lease x where x.incarnation = $1 and x.lane = $2 for key share), false)", "");

/// A run row this transaction holds.
#[derive(Debug, Clone)]
pub(super) struct Locked {
    pub(super) owner: Option<Uuid>,
    pub(super) epoch: i32,
    pub(super) state: RunState,
    pub(super) inbox: i32,
    pub(super) route: i64,
    pub(super) priority: i32,
    pub(super) slotted: bool,
    pub(super) timed: bool,
    pub(super) keyed: bool,
    pub(super) run_attempt: i16,
    pub(super) segment: i32,
}

#[derive(Default)]
pub(super) struct Locks {
    /// The lane's lease row stands and is held.
    pub(super) lease: bool,
    /// As they are; but for those in `plain`.
    pub(super) runs: HashMap<RunKey, Locked>,
    /// Ours under this epoch, executing, with no slot, timer or dedup key.
    plain: KeyMap<RunKey, i32>,
}

impl Locks {
    /// Whether (incarnation, epoch) owns the run now.
    pub(super) fn owns(&self, incarnation: Option<Uuid>, run: &RunKey, epoch: i32) -> bool {
        self.lease
            && incarnation.is_some()
            && match (self.plain.get(run), self.runs.get(run)) {
                (Some(held), _) => *held == epoch || mutated("fence.run"),
                (None, Some(r)) => {
                    mutated("fence.run") || (r.owner == incarnation && r.epoch == epoch && matches!(r.state, RunState::Running | RunState::Cancelling))
                }
                (None, None) => false,
            }
    }
}

/// Runs to lock. An epoch: its writer expects to own it under that one, and needs no more than to know that it does.
#[derive(Default)]
pub(super) struct LockSet(Vec<(RunKey, Option<i32>)>);

impl LockSet {
    /// Lock and read these, whatever they are.
    pub(super) fn whole(runs: impl IntoIterator<Item = RunKey>) -> Self {
        LockSet(runs.into_iter().map(|run| (run, None)).collect())
    }

    pub(super) fn owned(&mut self, run: RunKey, epoch: i32) {
        self.0.push((run, Some(epoch)));
    }

    pub(super) fn extend(&mut self, runs: impl IntoIterator<Item = RunKey>) {
        self.0.extend(runs.into_iter().map(|run| (run, None)));
    }

    /// In key order, each once. Who names a run twice and differs gets the row itself.
    fn sorted(mut self) -> Vec<(RunKey, Option<i32>)> {
        self.0.sort_unstable_by_key(|(run, _)| *run);
        self.0.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same && next.1 != kept.1 {
                kept.1 = None;
            }
            same
        });
        self.0
    }
}

pub(super) async fn take(session: &mut Session, incarnation: Option<Uuid>, lane: i16, runs: LockSet) -> Result<Locks> {
    let mut rows = runs.sorted();
    if rows.is_empty() {
        // A row of nobody keeps the lease in the answer when there is no run to lock.
        rows.push((Uuid::nil(), None));
    }
    let text = match () {
        () if mutated("fence.lease") => WITHOUT_LEASE,
        () if mutated("fence.run") => WITHOUT_RUN,
        () => LOCK,
    };
    let statement = session.q(text).bind(incarnation).bind(lane).bind(column(&rows, |r| r.0)).bind(unless(&rows, None, |r| r.1));
    let answer = session.rows(statement).await?;
    // Without its lease every row is answered.
    let mut locks = Locks { lease: answer.is_empty(), ..Locks::default() };
    locks.plain.reserve(rows.len());
    locks.plain.extend(rows.into_iter().filter_map(|(run, epoch)| Some((run, epoch?))));
    for row in answer {
        locks.lease = read(row.try_get(0))?;
        let run: RunKey = read(row.try_get(1))?;
        locks.plain.remove(&run);
        if let Some(epoch) = read(row.try_get::<Option<i32>, _>(3))? {
            let locked = Locked {
                owner: read(row.try_get(2))?,
                epoch,
                state: state(read(row.try_get(4))?)?,
                inbox: read(row.try_get(5))?,
                route: read(row.try_get(6))?,
                priority: read(row.try_get(7))?,
                slotted: read(row.try_get(8))?,
                timed: read(row.try_get(9))?,
                keyed: read(row.try_get(10))?,
                run_attempt: read(row.try_get(11))?,
                segment: read(row.try_get(12))?,
            };
            locks.runs.insert(run, locked);
        }
    }
    Ok(locks)
}
