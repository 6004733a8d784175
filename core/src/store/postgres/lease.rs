//! Presence: the worker row, a lease row a lane, and taking over from the dead.

use std::time::Instant;

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::read;
use super::{PostgresStore, claim, orphans};
use crate::store::{Result, StoreError, WakeHint, WorkerInfo};

const WORKER: &str = "\
insert into {s}.worker as w (incarnation, lease_until, namespace, lanes, protocol, schema_version, pid, process_start, host, boot_id,
    pid_namespace, build, language, queues, environment, started_at)
values ($1, statement_timestamp() + $2 * interval '1 millisecond', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, statement_timestamp())
on conflict (incarnation) do update set lease_until = excluded.lease_until";

const LEASES: &str = "insert into {s}.lease (incarnation, lane) select $1, * from unnest($2::smallint[]) on conflict do nothing";

/// No connection's: it says that this worker's tick session holds a lock while it lives.
const SESSION_LANE: i16 = -2;

/// In the commit that brings the lease: whoever sleeps knows when to look for this worker again, even if it dies at once.
const TELL: &str = "select pg_notify($1, $2)";

pub(super) async fn register(store: &PostgresStore, worker: &WorkerInfo) -> Result<()> {
    let mut session = store.pool.session(&store.shared).await?;
    failpoint!("store.register.before");
    session.begin().await?;
    let statement = session
        .q(WORKER)
        .bind(worker.incarnation)
        .bind(worker.lease_ms)
        .bind(store.shared.namespace.as_str())
        .bind(worker.lanes)
        .bind(worker.protocol)
        .bind(worker.schema)
        .bind(worker.pid)
        .bind(worker.process_start)
        .bind(worker.host.as_str())
        .bind(worker.boot_id.as_str())
        .bind(worker.pid_namespace.as_str())
        .bind(worker.build.as_str())
        .bind(worker.language.as_str())
        .bind(serde_json::Value::from(worker.queues.clone()).to_string())
        .bind(worker.environment.as_str());
    session.run(statement).await?;
    let mut lanes: Vec<i16> = (0..store.lanes.len() as i16).collect();
    lanes.push(claim::CLAIM_LANE);
    if !store.shared.pooled() {
        lanes.push(SESSION_LANE);
    }
    session.run(session.q(LEASES).bind(worker.incarnation).bind(lanes)).await?;
    if !store.shared.pooled() {
        let (channel, text) = store.hints.notification(&WakeHint::Lease(worker.lease_ms));
        session.rows(session.q(TELL).bind(channel).bind(text)).await?;
    }
    session.commit().await?;
    failpoint!("store.register.after");
    Ok(())
}

const BEAT: &str = "\
update {s}.worker set lease_until = statement_timestamp() + $2 * interval '1 millisecond' where incarnation = $1";

pub(super) async fn beat(store: &PostgresStore, incarnation: Uuid, lease_ms: i64) -> Result<bool> {
    let mut session = store.beat.session(&store.shared).await?;
    session.within = store.shared.beat_timeout;
    Ok(session.run(session.q(BEAT).bind(incarnation).bind(lease_ms)).await? > 0)
}

/// Waits for batches in flight of that process: what they commit, the next owner will read.
const DROP_LEASES: &str = "delete from {s}.lease where incarnation = $1";

/// It may have been buried before: a registration of unknown outcome is said again, and by then the first may have run out. What it owned since must
/// be looked for again.
const BURY: &str = "\
with w as (delete from {s}.worker where incarnation = $1 returning incarnation, pid, host, build)
insert into {s}.dead_worker (incarnation, at, txid, pid, host, build, graceful)
select w.incarnation, statement_timestamp(), pg_current_xact_id()::text::bigint, w.pid, w.host, w.build, $2 from w
on conflict (incarnation) do update set at = excluded.at, txid = excluded.txid, graceful = excluded.graceful, drained = false";

/// In a transaction whose caller holds the worker row or is the worker itself.
async fn bury(session: &mut Session, incarnation: Uuid, graceful: bool) -> Result<bool> {
    session.run(session.q(DROP_LEASES).bind(incarnation)).await?;
    Ok(session.run(session.q(BURY).bind(incarnation).bind(graceful)).await? > 0)
}

pub(super) async fn deregister(store: &PostgresStore, incarnation: Uuid) -> Result<()> {
    let mut session = store.pool.session(&store.shared).await?;
    session.begin().await?;
    match bury(&mut session, incarnation, true).await {
        Ok(_) => session.commit().await?,
        Err(error) => {
            session.rollback().await;
            return Err(error);
        }
    }
    // From here on any worker would finish the hand-over; doing it now saves them the wait.
    loop {
        let moved = orphans::of_one(&mut session, incarnation, true, 500, i32::MAX).await?;
        if moved == 0 {
            return Ok(());
        }
        store.hints.tell(store, None, vec![WakeHint::Resync]);
    }
}

/// Who is taken for dead, and on what grounds.
pub(super) struct Dead<'a> {
    /// Leases are judged fairly: what is over counts.
    pub(super) may_reap: bool,
    /// Their process has ended.
    pub(super) known: &'a [Uuid],
    /// Their session has ended, and they do not beat: then no more than this is left of their lease.
    pub(super) gone: &'a [Uuid],
    pub(super) gone_left_ms: i64,
}

macro_rules! is_dead {
    () => {
        "((w.lease_until < statement_timestamp() and $1) or w.incarnation = any($2::uuid[])
       or ($1 and w.incarnation = any($3::uuid[]) and w.lease_until <= statement_timestamp() + $4 * interval '1 millisecond'))"
    };
}

const DEAD: &str =
    concat!("select w.incarnation from {s}.worker w where ", is_dead!(), " and w.incarnation is distinct from $5 order by w.incarnation limit 8");

/// Looked at again under its lock: it may have beaten since.
const HOLD: &str = concat!("select 1 from {s}.worker w where w.incarnation = $5 and ", is_dead!(), " for update skip locked");

/// Take the leases of the dead away, one a transaction. A lease whose heartbeat or batch is in flight is skipped: the next tick looks again.
///
/// `patience` is when the caller's word that leases are judged fairly runs out: a server that stood still for a while answers statements of
/// before as if nothing had been, and finds every lease of the living out.
pub(super) async fn reap(session: &mut Session, own: Option<Uuid>, why: &Dead<'_>, patience: Instant) -> Result<Vec<Uuid>> {
    let mut reaped = Vec::new();
    let judged = |session: &Session, text| session.q(text).bind(why.may_reap).bind(why.known).bind(why.gone).bind(why.gone_left_ms);
    let rows = session.rows(judged(session, DEAD).bind(own)).await?;
    let dead = rows.iter().map(|row| read(row.try_get::<Uuid, _>(0))).collect::<Result<Vec<Uuid>>>()?;
    for incarnation in dead {
        failpoint!("store.reap.before");
        session.begin().await?;
        let held = session.rows(judged(session, HOLD).bind(incarnation)).await;
        let done = match held {
            Ok(rows) if rows.is_empty() || (Instant::now() > patience && !why.known.contains(&incarnation)) => Ok(false),
            Ok(_) => bury(session, incarnation, false).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(true) => {
                session.commit().await?;
                failpoint!("store.reap.after");
                reaped.push(incarnation);
            }
            Ok(false) | Err(StoreError::Conflict(_)) => session.rollback().await,
            Err(error) => {
                session.rollback().await;
                return Err(error);
            }
        }
    }
    Ok(reaped)
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::{Door, server};
    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_given_up_before_the_lease_is() {
        let store = PostgresStore::open(server(&[Door::Open]).await).expect("the URL is good");
        let error = store.beat(Uuid::nil(), 60_000).await.err();
        assert!(matches!(&error, Some(StoreError::Unavailable(message)) if message == "no answer within 150 ms"), "{error:?}");
    }
}
