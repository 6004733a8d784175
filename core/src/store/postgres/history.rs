//! Reading what a worker owns: history, attempts, open waits, and the present truth of run rows.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::PostgresStore;
use super::claim::{cancel, claimed, claimed_columns, cold_side};
use super::connect::Session;
use super::rows::{payload, read, state};
use super::steps::{position, record, step_columns};
use crate::store::{
    AttemptRecord, ClaimedRun, HISTORY_PAGE, Message, OpenWait, OwnedNow, Position, Result, RunKey, RunState, StepRecord, WaitAnswer, WaitKind,
};

const STEPS: &str = concat!(
    "select ",
    step_columns!(),
    " from unnest($1::uuid[], $2::int[]) as u(id, segment) \
     cross join lateral (select * from {s}.step s where s.run_id = u.id and s.segment = u.segment \
                         order by s.run_id, s.segment, s.branch, s.seq limit $3) s"
);

macro_rules! attempt_columns {
    () => {
        "a.run_id, a.segment, a.branch, a.seq, a.attempt, a.started, (extract(epoch from a.retry_at - statement_timestamp()) * 1000)::bigint, \
         a.written_by, (extract(epoch from a.at) * 1000000)::bigint, a.codec, a.key_id, a.error"
    };
}

const ATTEMPTS: &str = concat!(
    "select ",
    attempt_columns!(),
    " from unnest($1::uuid[], $2::int[]) as u(id, segment) \
     cross join lateral (select * from {s}.attempt a where a.run_id = u.id and a.segment = u.segment \
                         order by a.run_id, a.segment, a.branch, a.seq, a.attempt, a.started) a"
);

const WAITS: &str = "\
select w.run_id, w.segment, w.branch, w.seq, w.kind, (extract(epoch from w.due_at - statement_timestamp()) * 1000)::bigint,
       (extract(epoch from w.due_at) * 1000000)::bigint, w.target, w.key, w.site
from unnest($1::uuid[], $2::int[]) as u(id, segment)
cross join lateral (select * from {s}.waiter w where w.run_id = u.id and w.segment = u.segment
                    order by w.run_id, w.segment, w.branch, w.seq) w";

fn attempt(row: &PgRow) -> Result<(RunKey, AttemptRecord)> {
    let record = AttemptRecord {
        at: position(row, 1)?,
        attempt: read(row.try_get(4))?,
        started: read(row.try_get(5))?,
        retry_in_ms: read(row.try_get(6))?,
        written_by: read(row.try_get(7))?,
        recorded_at: read(row.try_get(8))?,
        error: payload(row, 9)?,
    };
    Ok((read(row.try_get(0))?, record))
}

pub(super) fn wait_kind(code: i16) -> WaitKind {
    match code {
        1 => WaitKind::Sleep,
        2 => WaitKind::Receive,
        3 => WaitKind::Event,
        4 => WaitKind::Result,
        _ => WaitKind::Retry,
    }
}

/// Attempts of the current segment of each run.
pub(super) async fn attempts(session: &mut Session, ids: &[RunKey], segments: &[i32]) -> Result<Vec<(RunKey, AttemptRecord)>> {
    session.rows(session.q(ATTEMPTS).bind(ids).bind(segments)).await?.iter().map(attempt).collect()
}

pub(super) async fn open_waits(store: &PostgresStore, session: &mut Session, ids: &[RunKey], segments: &[i32]) -> Result<Vec<(RunKey, OpenWait)>> {
    let rows = session.rows(session.q(WAITS).bind(ids).bind(segments)).await?;
    let sites = store.sites.of_rows(session, &rows, 9).await?;
    rows.iter()
        .map(|row| {
            let site: i64 = read(row.try_get(9))?;
            let wait = OpenWait {
                at: position(row, 1)?,
                kind: wait_kind(read(row.try_get(4))?),
                due_in_ms: read(row.try_get(5))?,
                due_at: read(row.try_get(6))?,
                target: read(row.try_get(7))?,
                key: read(row.try_get(8))?,
                site: sites.get(&site).cloned().unwrap_or_else(|| crate::store::Site { id: site, name: "".into(), location: "".into() }),
            };
            Ok((read(row.try_get(0))?, wait))
        })
        .collect()
}

/// Load the first page of what is recorded of these runs. A run claimed for the first time has recorded nothing: it costs no statement.
pub(super) async fn fill(store: &PostgresStore, session: &mut Session, runs: &mut [ClaimedRun]) -> Result<()> {
    let old: Vec<usize> = runs.iter().enumerate().filter(|(_, run)| run.epoch > 1).map(|(at, _)| at).collect();
    if old.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = old.iter().map(|at| runs[*at].key).collect();
    let segments: Vec<i32> = old.iter().map(|at| runs[*at].segment).collect();
    let by_key: HashMap<RunKey, usize> = old.iter().map(|at| (runs[*at].key, *at)).collect();
    let rows = session.rows(session.q(STEPS).bind(&ids).bind(&segments).bind(HISTORY_PAGE + 1)).await?;
    let sites = store.sites.of_rows(session, &rows, 5).await?;
    for row in &rows {
        let (key, step) = record(row, 0, &sites)?;
        if let Some(at) = by_key.get(&key) {
            if runs[*at].steps.len() as i64 == HISTORY_PAGE {
                runs[*at].more_steps = true;
            } else {
                runs[*at].steps.push(step);
            }
        }
    }
    for (key, attempt) in attempts(session, &ids, &segments).await? {
        if let Some(at) = by_key.get(&key) {
            runs[*at].attempts.push(attempt);
        }
    }
    for (key, wait) in open_waits(store, session, &ids, &segments).await? {
        if let Some(at) = by_key.get(&key) {
            runs[*at].waits.push(wait);
        }
    }
    Ok(())
}

const PAGE: &str = concat!(
    "select ",
    step_columns!(),
    " from {s}.step s where s.run_id = $1 and s.segment = $2 and (s.branch, s.seq) > ($3, $4) \
     order by s.run_id, s.segment, s.branch, s.seq limit $5"
);

pub(super) async fn page(store: &PostgresStore, session: &mut Session, run: RunKey, segment: i32, after: &Position) -> Result<(Vec<StepRecord>, bool)> {
    let statement = session.q(PAGE).bind(run).bind(segment).bind(after.branch.to_string()).bind(after.seq).bind(HISTORY_PAGE + 1);
    let rows = session.rows(statement).await?;
    let sites = store.sites.of_rows(session, &rows, 5).await?;
    let mut steps = rows.iter().map(|row| Ok(record(row, 0, &sites)?.1)).collect::<Result<Vec<_>>>()?;
    let more = steps.len() as i64 > HISTORY_PAGE;
    steps.truncate(HISTORY_PAGE as usize);
    Ok((steps, more))
}

const LOAD: &str = concat!(
    "select ",
    claimed_columns!(),
    "
from unnest($2::uuid[]) as u(id)
cross join lateral (select * from {s}.run t where t.id = u.id and t.owner = $1 offset 0) t
",
    cold_side!()
);

pub(super) async fn load(store: &PostgresStore, session: &mut Session, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<ClaimedRun>> {
    let rows = session.rows(session.q(LOAD).bind(incarnation).bind(runs)).await?;
    let routes = rows.iter().map(|row| read(row.try_get::<i64, _>(5))).collect::<Result<HashSet<i64>>>()?;
    let routes = store.sites.routes(session, routes).await?;
    let mut loaded = Vec::with_capacity(rows.len());
    for row in &rows {
        let route: i64 = read(row.try_get(5))?;
        if let Some(route) = routes.get(&route) {
            loaded.push(claimed(row, route.clone())?);
        }
    }
    // A run this process started itself has epoch 1 and may well have recorded steps since.
    let epochs: Vec<i32> = loaded.iter().map(|run| run.epoch).collect();
    loaded.iter_mut().for_each(|run| run.epoch = run.epoch.max(2));
    let filled = fill(store, session, &mut loaded).await;
    loaded.iter_mut().zip(epochs).for_each(|(run, epoch)| run.epoch = epoch);
    filled.map(|()| loaded)
}

macro_rules! present_columns {
    () => {
        "r.id, r.epoch, r.owner, r.state, r.inbox, r.claim_token, n.cancel_by, n.cancel_why, \
         (extract(epoch from n.cancel_until - statement_timestamp()) * 1000)::bigint"
    };
}

const OWNED: &str = concat!(
    "select ",
    present_columns!(),
    " from {s}.run r left join lateral (select * from {s}.run_note n where n.run_id = r.id and r.state = 4 offset 0) n on true \
     where r.owner = $1"
);

const PRESENT: &str = concat!(
    "select ",
    present_columns!(),
    " from unnest($1::uuid[]) as u(id) cross join lateral (select * from {s}.run r where r.id = u.id offset 0) r \
     left join lateral (select * from {s}.run_note n where n.run_id = r.id and r.state = 4 offset 0) n on true"
);

const MOVED: &str = concat!(
    "select ",
    present_columns!(),
    " from unnest($2::uuid[], $3::int[], $4::int[]) as u(id, epoch, inbox) \
     cross join lateral (select * from {s}.run r where r.id = u.id \
       and (r.inbox <> u.inbox or r.epoch <> u.epoch or r.owner is distinct from $1 or r.state not in (2, 4)) offset 0) r \
     left join lateral (select * from {s}.run_note n where n.run_id = r.id and r.state = 4 offset 0) n on true"
);

fn present(row: &PgRow, incarnation: Uuid) -> Result<OwnedNow> {
    let state: RunState = state(read(row.try_get(3))?)?;
    let owner: Option<Uuid> = read(row.try_get(2))?;
    Ok(OwnedNow {
        key: read(row.try_get(0))?,
        epoch: read(row.try_get(1))?,
        mine: owner == Some(incarnation),
        state,
        inbox: read(row.try_get(4))?,
        claim_token: read(row.try_get(5))?,
        cancel: cancel(row, 6, state)?,
    })
}

pub(super) async fn owned(session: &mut Session, incarnation: Uuid) -> Result<Vec<OwnedNow>> {
    session.rows(session.q(OWNED).bind(incarnation)).await?.iter().map(|row| present(row, incarnation)).collect()
}

pub(super) async fn recheck(session: &mut Session, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<OwnedNow>> {
    session.rows(session.q(PRESENT).bind(runs)).await?.iter().map(|row| present(row, incarnation)).collect()
}

/// (run, epoch, inbox).
pub(super) async fn moved(session: &mut Session, incarnation: Uuid, runs: &[(RunKey, i32, i32)]) -> Result<Vec<OwnedNow>> {
    let statement = session
        .q(MOVED)
        .bind(incarnation)
        .bind(runs.iter().map(|r| r.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.1).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.2).collect::<Vec<_>>());
    session.rows(statement).await?.iter().map(|row| present(row, incarnation)).collect()
}

const PENDING: &str = "\
select m.topic, m.id, m.codec, m.key_id, m.value from unnest($2::text[], $3::bigint[]) as u(topic, n)
cross join lateral (select * from {s}.message m where m.run_id = $1 and m.topic = u.topic and m.consumed is null
                    order by m.run_id, m.topic, m.ord, m.id limit u.n) m";

/// In one look: an event that came in between, and the end behind it, must not look like an end without.
const EVENTS: &str = "\
select u.id, u.key, r.state, e.codec, e.key_id, e.value from unnest($1::uuid[], $2::text[]) as u(id, key)
left join lateral (select r.state from {s}.run r where r.id = u.id offset 0) r on true
left join lateral (select * from {s}.event e where e.run_id = u.id and e.key = u.key offset 0) e on true
where e.codec is not null or r.state is null or r.state in (6, 7, 8)";

pub(super) async fn events(session: &mut Session, wanted: &[(RunKey, &str)]) -> Result<HashMap<(RunKey, String), WaitAnswer>> {
    let statement = session.q(EVENTS).bind(wanted.iter().map(|w| w.0).collect::<Vec<_>>()).bind(wanted.iter().map(|w| w.1).collect::<Vec<_>>());
    let rows = session.rows(statement).await?;
    rows.iter()
        .map(|row| {
            let (run_state, codec): (Option<i16>, Option<i16>) = (read(row.try_get(2))?, read(row.try_get(3))?);
            let answer = match (codec, run_state) {
                (Some(_), _) => WaitAnswer::Event(payload(row, 3)?),
                (None, Some(_)) => WaitAnswer::Ended,
                (None, None) => WaitAnswer::NotFound,
            };
            Ok(((read(row.try_get(0))?, read(row.try_get(1))?), answer))
        })
        .collect()
}

const ENDS: &str = "\
select u.id, r.state, o.codec, o.key_id, o.value, n.blocked_why from unnest($1::uuid[]) as u(id)
left join lateral (select r.state from {s}.run r where r.id = u.id offset 0) r on true
left join lateral (select * from {s}.outcome o where o.run_id = u.id and r.state in (6, 7, 8) offset 0) o on true
left join lateral (select n.blocked_why from {s}.run_note n where n.run_id = u.id and r.state = 5 offset 0) n on true";

/// What each of these runs has come to; runs that go on are not in the answer.
pub(super) async fn ends(session: &mut Session, runs: &[RunKey]) -> Result<Vec<(RunKey, WaitAnswer)>> {
    let mut ends = Vec::new();
    for row in session.rows(session.q(ENDS).bind(runs)).await? {
        let key: RunKey = read(row.try_get(0))?;
        let Some(code) = read(row.try_get::<Option<i16>, _>(1))? else {
            ends.push((key, WaitAnswer::NotFound));
            continue;
        };
        let state = state(code)?;
        if state.is_terminal() {
            let value = match read(row.try_get::<Option<i16>, _>(2))? {
                Some(_) => payload(&row, 2)?,
                None => Default::default(),
            };
            ends.push((key, WaitAnswer::Result { state, value }));
        } else if state == RunState::Blocked {
            let why: Option<String> = read(row.try_get(5))?;
            ends.push((key, WaitAnswer::Blocked { why: why.unwrap_or_default() }));
        }
    }
    Ok(ends)
}

pub(super) async fn answer_waits(session: &mut Session, run: RunKey, open: &[OpenWait]) -> Result<Vec<WaitAnswer>> {
    let mut topics: HashMap<&str, i64> = HashMap::new();
    let (mut wanted, mut targets) = (Vec::new(), Vec::new());
    for wait in open {
        match (wait.kind, wait.target) {
            (WaitKind::Receive, _) => *topics.entry(wait.key.as_str()).or_default() += 1,
            (WaitKind::Event, Some(target)) => wanted.push((target, wait.key.as_str())),
            (WaitKind::Result, Some(target)) => targets.push(target),
            _ => {}
        }
    }
    let mut pending: HashMap<String, std::collections::VecDeque<Message>> = HashMap::new();
    if !topics.is_empty() {
        let (names, counts): (Vec<&str>, Vec<i64>) = topics.into_iter().unzip();
        for row in session.rows(session.q(PENDING).bind(run).bind(names).bind(counts)).await? {
            let message = Message { topic: read(row.try_get(0))?, id: read(row.try_get(1))?, value: payload(&row, 2)? };
            pending.entry(message.topic.clone()).or_default().push_back(message);
        }
    }
    let events = if wanted.is_empty() { HashMap::new() } else { events(session, &wanted).await? };
    let ends: HashMap<RunKey, WaitAnswer> = if targets.is_empty() { HashMap::new() } else { ends(session, &targets).await?.into_iter().collect() };
    Ok(open
        .iter()
        .map(|wait| match (wait.kind, wait.target) {
            (WaitKind::Receive, _) => pending.get_mut(&wait.key).and_then(|queue| queue.pop_front()).map_or(WaitAnswer::Nothing, WaitAnswer::Message),
            (WaitKind::Event, Some(target)) => events.get(&(target, wait.key.clone())).cloned().unwrap_or(WaitAnswer::Nothing),
            (WaitKind::Result, Some(target)) => ends.get(&target).cloned().unwrap_or(WaitAnswer::Nothing),
            _ => WaitAnswer::Nothing,
        })
        .collect())
}
