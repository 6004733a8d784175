//! Claiming ready runs. A queue without limits is claimed in one statement that never touches its row; a limited one under its row's lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connect::Session;
use super::rows::{column, payload, read, state};
use super::{PostgresStore, history, queues};
use crate::store::{CancelRequest, ClaimRequest, ClaimedRun, Queue, Result, Route, RunState};

/// The claim connection locks a lease row of its own, as each lane does.
pub(super) const CLAIM_LANE: i16 = -1;

/// How long the answer "this queue has no limits" is believed unless a tick sees that a queue changed; the claim itself looks again at each
/// queue it takes from.
const LIMITS_FRESH: Duration = Duration::from_secs(60);

/// From `picked(c, run_id)`: take the rows out of `ready`, own the runs that are still to be had, tell all about them. The update finds its
/// rows by key, not by ctid: a run that changes while this waits for it must be looked at again, not lost. By an array, not by a join: that
/// has one plan, and an index visits the keys of an array in order.
macro_rules! take {
    () => {
        take!("")
    };
    ($slotted:literal) => {
        concat!(
            "gone as (delete from {s}.ready x using picked p where x.ctid = p.c),
taken as (
  update {s}.run x set owner = $1, epoch = x.epoch + 1, state = case when x.state = 4 then 4 else 2 end, claim_token = $2",
            $slotted,
            "
  where x.id = any((select array_agg(p.run_id) from picked p)::uuid[]) and x.owner is null and x.state in (1, 4)
  returning x.id, x.epoch, x.state, x.inbox, x.segment, x.route, x.priority, x.crashes, x.run_attempt, x.keyed),
freed as (delete from {s}.dedup d where d.run_id = any((select array_agg(t.id) from taken t where t.keyed)::uuid[]) and d.scope = 1)"
        )
    };
}

/// A run with its cold side, as columns; `t` is (a part of) its row.
macro_rules! claimed_columns {
    () => {
        "t.id, t.epoch, t.state, t.inbox, t.segment, t.route, t.priority, t.crashes, t.run_attempt,
       i.id_text, i.version, i.input_codec, i.input_key_id, i.input, i.parent, i.root, i.trace_parent, i.attributes, i.created_by, i.options,
       (extract(epoch from i.deadline_at - statement_timestamp()) * 1000)::bigint,
       n.cancel_by, n.cancel_why, (extract(epoch from n.cancel_until - statement_timestamp()) * 1000)::bigint, i.new_effects,
       t.epoch > 1 and exists (select 1 from {s}.child c where c.parent = t.id offset 0)"
    };
}
pub(super) use claimed_columns;

macro_rules! cold_side {
    () => {
        "cross join lateral (select * from {s}.run_info i where i.run_id = t.id offset 0) i
left join lateral (select * from {s}.run_note n where n.run_id = t.id and t.state = 4 offset 0) n on true"
    };
}
pub(super) use cold_side;

/// Each queue's best in turn, so that no queue's backlog delays another; inside a queue by (priority, age) over its routes. `quota` decides
/// how many of each route, `picked` locks that many that nobody else is taking.
const CLAIM: &str = concat!(
    "with fence as materialized (select true from {s}.lease x where x.incarnation = $1 and x.lane = -1 for key share),
open as materialized (
  select u.route, u.queue from unnest($3::bigint[], $4::text[]) as u(route, queue)
  where exists (select 1 from fence)
    and not exists (select 1 from {s}.queue q where q.namespace = $6 and q.name = u.queue
                    and (q.paused or q.fleet_limit is not null or q.worker_limit is not null or q.key_limit is not null) offset 0)),
best as (
  select b.route from (
    select o.route, p.priority, p.ord, row_number() over (partition by o.queue order by p.priority, p.ord) as turn
    from open o cross join lateral (
      select y.priority, y.ord from {s}.ready y where y.route = o.route order by y.route, y.priority, y.ord limit $5) p) b
  order by b.turn, b.priority, b.ord limit $5),
quota as materialized (select route, count(*) as n from best group by route),
picked as materialized (
  select p.c, p.run_id from quota q cross join lateral (
    select y.ctid as c, y.run_id from {s}.ready y where y.route = q.route order by y.route, y.priority, y.ord limit q.n
    for update skip locked) p),
",
    take!(),
    "
select ",
    claimed_columns!(),
    "
from taken t
",
    cold_side!()
);

/// The queues without limits, or one with: each may have its share of a claim before any has more, and each claim begins with another, so that
/// no backlog holds up another queue where a claim has room for one run only.
struct Turn<'q> {
    limited: Option<&'q str>,
    got: i64,
}

pub(super) async fn claim(store: &PostgresStore, request: &ClaimRequest) -> Result<Vec<ClaimedRun>> {
    if request.max <= 0 || request.routes.is_empty() {
        return Ok(Vec::new());
    }
    let mut session = store.claim.session(&store.shared).await?;
    failpoint!("store.claim.before");
    let limited = limits(store, &mut session, &request.routes).await?;
    let free: Vec<&Route> = request.routes.iter().filter(|route| !limited.contains_key(&route.queue)).collect();
    let mut turns: Vec<Turn<'_>> = limited.keys().map(|name| Turn { limited: Some(name.as_str()), got: 0 }).collect();
    if !free.is_empty() {
        turns.push(Turn { limited: None, got: 0 });
    }
    let first = store.claims.fetch_add(1, Ordering::Relaxed) % turns.len();
    turns.rotate_left(first);
    let share = (request.max as u64).div_ceil(turns.len() as u64) as i64;
    let mut rows = Vec::new();
    for again in [false, true] {
        for turn in &mut turns {
            let left = request.max - rows.len() as i64;
            // Who did not fill his share has nothing more.
            if left <= 0 || (again && turn.got < share) {
                continue;
            }
            let most = if again { left } else { left.min(share) };
            let taken = match turn.limited {
                None => from_unlimited(store, &mut session, request, &free, most).await?,
                Some(name) => from_limited(store, &mut session, request, name, most, turn.got).await?,
            };
            turn.got += taken.len() as i64;
            rows.extend(taken);
        }
    }
    failpoint!("store.claim.after");
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let by_id: HashMap<i64, &Route> = request.routes.iter().map(|route| (route.id, route)).collect();
    let mut runs = Vec::with_capacity(rows.len());
    for row in &rows {
        let route: i64 = read(row.try_get(5))?;
        if let Some(route) = by_id.get(&route) {
            runs.push(claimed(row, (*route).clone())?);
        }
    }
    history::fill(store, &mut session, &mut runs).await?;
    Ok(runs)
}

async fn from_unlimited(store: &PostgresStore, session: &mut Session, request: &ClaimRequest, routes: &[&Route], max: i64) -> Result<Vec<PgRow>> {
    let statement = session
        .q(CLAIM)
        .bind(request.incarnation)
        .bind(request.claim_token)
        .bind(column(routes, |route| route.id))
        .bind(column(routes, |route| route.queue.as_str()))
        .bind(max)
        .bind(store.shared.namespace.as_str());
    session.rows(statement).await
}

/// Have the statements of a claim planned.
pub(super) async fn warm(store: &PostgresStore) -> Result<()> {
    queues::all(&mut store.claim.session(&store.shared).await?).await?;
    let nobody = ClaimRequest { incarnation: uuid::Uuid::nil(), claim_token: 0, routes: Vec::new(), max: 0, held_by_queue: Vec::new() };
    from_unlimited(store, &mut store.claim.session(&store.shared).await?, &nobody, &[], 0).await.map(|_| ())
}

/// A row of `claimed_columns!`.
pub(super) fn claimed(row: &PgRow, route: Route) -> Result<ClaimedRun> {
    let state: RunState = state(read(row.try_get(2))?)?;
    let (crashes, run_attempt): (i16, i16) = (read(row.try_get(7))?, read(row.try_get(8))?);
    Ok(ClaimedRun {
        key: read(row.try_get(0))?,
        epoch: read(row.try_get(1))?,
        state,
        inbox: read(row.try_get(3))?,
        segment: read(row.try_get(4))?,
        id_text: read(row.try_get(9))?,
        route,
        version: read(row.try_get(10))?,
        priority: read(row.try_get(6))?,
        input: payload(row, 11)?,
        parent: read(row.try_get(14))?,
        root: read(row.try_get(15))?,
        trace_parent: read(row.try_get(16))?,
        attributes: read(row.try_get(17))?,
        created_by: read(row.try_get(18))?,
        options: read(row.try_get(19))?,
        new_effects: read(row.try_get(24))?,
        has_children: read(row.try_get(25))?,
        crashes: crashes.into(),
        run_attempt: run_attempt.into(),
        // One that has passed counts no more in a run that goes on (a resumed one, one that cleans up): it would end the children it starts at once.
        deadline_in_ms: read(row.try_get::<Option<i64>, _>(20))?.filter(|left| *left > 0),
        cancel: cancel(row, 21, state)?,
        steps: Vec::new(),
        more_steps: false,
        attempts: Vec::new(),
        waits: Vec::new(),
    })
}

/// Columns (cancel_by, cancel_why, milliseconds left) from `at` on.
pub(super) fn cancel(row: &PgRow, at: usize, state: RunState) -> Result<Option<CancelRequest>> {
    if state != RunState::Cancelling {
        return Ok(None);
    }
    let (by, why): (Option<String>, Option<String>) = (read(row.try_get(at))?, read(row.try_get(at + 1))?);
    let left: Option<i64> = read(row.try_get(at + 2))?;
    Ok(Some(CancelRequest { by: by.unwrap_or_default(), why: why.unwrap_or_default(), grace_left_ms: left.unwrap_or(0).max(0) }))
}

/// The queues of these routes that are paused or limited.
async fn limits(store: &PostgresStore, session: &mut Session, routes: &[Route]) -> Result<BTreeMap<String, Queue>> {
    let mut known = store.limits.lock().await;
    let names: Vec<&str> = routes.iter().map(|route| route.queue.as_str()).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let fresh = known.as_ref().is_some_and(|(at, _)| at.elapsed() < LIMITS_FRESH);
    if !fresh {
        let limited = queues::all(session).await?.into_iter().filter(queues::is_limited).map(|queue| (queue.name.clone(), queue)).collect();
        *known = Some((Instant::now(), limited));
    }
    let limited = known.as_ref().map(|(_, limited)| limited.clone()).unwrap_or_default();
    Ok(limited.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect())
}

const LOCK_QUEUE: &str = "select name from {s}.queue where namespace = $1 and name = $2 for no key update";

const TAKEN_SLOTS: &str = "\
select coalesce(s.fairness_key, ''), count(*) from {s}.slot s where s.namespace = $1 and s.queue = $2 group by s.fairness_key";

/// Candidates in order; a run that kept its slot (a queue that holds) comes whatever the counts say: it is what fills its key.
const CANDIDATES: &str = "\
select p.route, p.priority, p.ord, p.run_id, coalesce(p.fairness_key, ''), r.slotted
from unnest($1::bigint[]) as u(route)
cross join lateral (
  select y.route, y.priority, y.ord, y.run_id, y.fairness_key from {s}.ready y
  where y.route = u.route
    and (not (coalesce(y.fairness_key, '') = any($2::text[])) or exists (select 1 from {s}.slot s where s.run_id = y.run_id offset 0))
  order by y.route, y.priority, y.ord limit $3) p
left join lateral (select x.slotted from {s}.run x where x.id = p.run_id offset 0) r on true
order by p.priority, p.ord limit $3";

/// As `CLAIM`, of named rows, and each run with a slot row.
const TAKE_NAMED: &str = concat!(
    "with fence as materialized (select true from {s}.lease x where x.incarnation = $1 and x.lane = -1 for key share),
picked as materialized (
  select y.c, u.run_id from unnest($3::bigint[], $4::int[], $5::bigint[], $6::uuid[]) as u(route, priority, ord, run_id)
  cross join lateral (select y.ctid as c from {s}.ready y where y.route = u.route and y.priority = u.priority and y.ord = u.ord
                      and y.run_id = u.run_id for update skip locked offset 0) y
  where exists (select 1 from fence)),
",
    take!(", slotted = true"),
    ",
slots as (
  insert into {s}.slot (run_id, namespace, queue, fairness_key, at)
  select t.id, $7, $8, (select i.fairness_key from {s}.run_info i where i.run_id = t.id offset 0), statement_timestamp() from taken t
  on conflict (run_id) do nothing)",
    "
select ",
    claimed_columns!(),
    "
from taken t
",
    cold_side!()
);

/// Rows looked at for one claim of a queue with keys; more rounds follow while keys at their limit hide others.
const LOOK: i64 = 200;
const ROUNDS: usize = 5;

/// `got`: what this claim has taken from it already.
async fn from_limited(store: &PostgresStore, session: &mut Session, request: &ClaimRequest, name: &str, max: i64, got: i64) -> Result<Vec<PgRow>> {
    session.begin().await?;
    match within_limits(store, session, request, name, max, got).await {
        Ok(rows) => {
            session.commit().await?;
            Ok(rows)
        }
        Err(error) => {
            session.rollback().await;
            Err(error)
        }
    }
}

async fn within_limits(store: &PostgresStore, session: &mut Session, request: &ClaimRequest, name: &str, max: i64, got: i64) -> Result<Vec<PgRow>> {
    let namespace = store.shared.namespace.as_str();
    // Slots are counted by a later statement than the one that waits for the row: it must see what the holder before us took.
    session.rows(session.q(LOCK_QUEUE).bind(namespace).bind(name)).await?;
    let Some(queue) = queues::one(session, name).await? else { return Ok(Vec::new()) };
    if queue.paused {
        return Ok(Vec::new());
    }
    let mut by_key: HashMap<String, i64> = HashMap::new();
    for row in session.rows(session.q(TAKEN_SLOTS).bind(namespace).bind(name)).await? {
        by_key.insert(read(row.try_get(0))?, read(row.try_get(1))?);
    }
    let used: i64 = by_key.values().sum();
    let held = request.held_by_queue.iter().find(|(queue, _)| queue == name).map_or(0, |(_, held)| i64::from(*held)) + got;
    let mut left = max;
    if let Some(limit) = queue.limit {
        left = left.min(i64::from(limit) - used);
    }
    if let Some(limit) = queue.worker_limit {
        left = left.min(i64::from(limit) - held);
    }
    if left <= 0 && !queue.hold {
        return Ok(Vec::new());
    }
    let routes: Vec<i64> = request.routes.iter().filter(|route| route.queue == name).map(|route| route.id).collect();
    let full = |by_key: &HashMap<String, i64>| -> Vec<String> {
        let Some(limit) = queue.key_limit else { return Vec::new() };
        by_key.iter().filter(|(key, count)| !key.is_empty() && **count >= i64::from(limit)).map(|(key, _)| key.clone()).collect()
    };
    let mut chosen: Vec<(i64, i32, i64, uuid::Uuid)> = Vec::new();
    let mut total = 0;
    for _ in 0..ROUNDS {
        let statement = session.q(CANDIDATES).bind(&routes).bind(full(&by_key)).bind((max + chosen.len() as i64).max(LOOK));
        let candidates = session.rows(statement).await?;
        let seen = candidates.len() as i64;
        let mut hidden = false;
        for row in candidates {
            let pick = (read(row.try_get(0))?, read(row.try_get(1))?, read(row.try_get(2))?, read(row.try_get(3))?);
            if chosen.contains(&pick) {
                continue;
            }
            let key: String = read(row.try_get(4))?;
            let slotted = read(row.try_get::<Option<bool>, _>(5))?.unwrap_or(false);
            if slotted && total < max {
                chosen.push(pick);
                total += 1;
                continue;
            }
            if left <= 0 || total >= max {
                continue;
            }
            let count = by_key.entry(key.clone()).or_default();
            if !key.is_empty() && queue.key_limit.is_some_and(|limit| *count >= i64::from(limit)) {
                hidden = true;
                continue;
            }
            *count += 1;
            left -= 1;
            total += 1;
            chosen.push(pick);
        }
        if left <= 0 || total >= max || !hidden || seen < LOOK {
            break;
        }
    }
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let statement = session
        .q(TAKE_NAMED)
        .bind(request.incarnation)
        .bind(request.claim_token)
        .bind(chosen.iter().map(|c| c.0).collect::<Vec<_>>())
        .bind(chosen.iter().map(|c| c.1).collect::<Vec<_>>())
        .bind(chosen.iter().map(|c| c.2).collect::<Vec<_>>())
        .bind(chosen.iter().map(|c| c.3).collect::<Vec<_>>())
        .bind(namespace)
        .bind(name);
    session.rows(statement).await
}
