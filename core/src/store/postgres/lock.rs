//! The one locking pass: the lane's lease row, then every run row the batch touches, in key order.

use std::collections::{BTreeSet, HashMap};

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{read, state};
use crate::failpoint::mutated;
use crate::store::{Result, RunKey, RunState};

/// `l.ok is not null` keeps the join order: lease before runs. `offset 0` keeps the look-up a look-up.
const LOCK: &str = "\
select l.ok, u.id, r.owner, r.epoch, r.state, r.inbox, r.route, r.priority, r.slotted, r.timed, r.keyed, r.run_attempt, r.segment
from (select coalesce((select true from {s}.lease x where x.incarnation = $1 and x.lane = $2 for key share), false) as ok offset 0) l
cross join unnest($3::uuid[]) as u(id)
left join lateral (select * from {s}.run r where r.id = u.id and l.ok is not null for no key update offset 0) r on true";

/// As `LOCK`, with one of the two locks taken out: for the suite, which must notice (`failpoint::MUTATIONS`).
const WITHOUT_LEASE: &str = "\
select true, u.id, r.owner, r.epoch, r.state, r.inbox, r.route, r.priority, r.slotted, r.timed, r.keyed, r.run_attempt, r.segment
from unnest($3::uuid[]) as u(id)
left join lateral (select * from {s}.run r where r.id = u.id and $1::uuid is not distinct from $1 and $2::smallint is not null
                   for no key update offset 0) r on true";
const WITHOUT_RUN: &str = "\
select l.ok, u.id, r.owner, r.epoch, r.state, r.inbox, r.route, r.priority, r.slotted, r.timed, r.keyed, r.run_attempt, r.segment
from (select coalesce((select true from {s}.lease x where x.incarnation = $1 and x.lane = $2 for key share), false) as ok offset 0) l
cross join unnest($3::uuid[]) as u(id)
left join lateral (select * from {s}.run r where r.id = u.id and l.ok is not null offset 0) r on true";

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
    pub(super) runs: HashMap<RunKey, Locked>,
}

impl Locks {
    /// Whether (incarnation, epoch) owns the run now.
    pub(super) fn owns(&self, incarnation: Option<Uuid>, run: &RunKey, epoch: i32) -> bool {
        self.lease
            && incarnation.is_some()
            && self.runs.get(run).is_some_and(|r| {
                mutated("fence.run") || (r.owner == incarnation && r.epoch == epoch && matches!(r.state, RunState::Running | RunState::Cancelling))
            })
    }
}

pub(super) async fn take(session: &mut Session, incarnation: Option<Uuid>, lane: i16, runs: &BTreeSet<RunKey>) -> Result<Locks> {
    // A row of nobody keeps the lease in the answer when there is no run to lock.
    let mut ids: Vec<Uuid> = runs.iter().copied().collect();
    if ids.is_empty() {
        ids.push(Uuid::nil());
    }
    let mut locks = Locks::default();
    let text = match () {
        () if mutated("fence.lease") => WITHOUT_LEASE,
        () if mutated("fence.run") => WITHOUT_RUN,
        () => LOCK,
    };
    for row in session.rows(session.q(text).bind(incarnation).bind(lane).bind(&ids)).await? {
        locks.lease = read(row.try_get(0))?;
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
            locks.runs.insert(read(row.try_get(1))?, locked);
        }
    }
    Ok(locks)
}
