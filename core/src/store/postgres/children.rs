//! Children of runs that have ended. The end leaves a timer for them in its own commit, so that they are cancelled whoever dies; the cancelling itself
//! is done in pages by whoever sees the timer, never in the parent's statement.

use sqlx::Row;

use super::PostgresStore;
use super::connect::Session;
use super::rows::read;
use crate::store::{CLOSE_AGAIN_MS, Result, RunKey};

const LEAVE: &str = "\
insert into {s}.timer (run_id, kind, due_at)
select u.id, 7, statement_timestamp() + u.after_ms * interval '1 millisecond' from unnest($1::uuid[], $2::bigint[]) as u(id, after_ms)
where exists (select 1 from {s}.child c where c.parent = u.id and c.policy = 1 offset 0)
on conflict (run_id, kind) do update set due_at = excluded.due_at";

/// (ended run, when somebody else may take its children on).
pub(super) async fn leave(session: &mut Session, parents: &[(RunKey, i64)]) -> Result<()> {
    let statement = session.q(LEAVE).bind(parents.iter().map(|p| p.0).collect::<Vec<_>>()).bind(parents.iter().map(|p| p.1).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const TAKE: &str = "\
update {s}.timer x set due_at = statement_timestamp() + $2 * interval '1 millisecond'
where x.run_id = $1 and x.kind = 7 and x.due_at <= statement_timestamp()
  and not exists (select 1 from {s}.run r where r.id = $1 and r.state not in (6, 7, 8) offset 0)";

/// It goes on by other means since it ended: its children are wanted.
const REVIVED: &str = "\
delete from {s}.timer x
where x.run_id = $1 and x.kind = 7 and exists (select 1 from {s}.run r where r.id = $1 and r.state not in (6, 7, 8) offset 0)";

/// Take on the children of an ended run whose timer is due. Who dies over it is followed by another when the timer is due again.
pub(super) async fn take(session: &mut Session, parent: RunKey) -> Result<bool> {
    if session.run(session.q(TAKE).bind(parent).bind(CLOSE_AGAIN_MS)).await? > 0 {
        return Ok(true);
    }
    session.run(session.q(REVIVED).bind(parent)).await?;
    Ok(false)
}

/// None where the parent has been brought back meanwhile: they are wanted.
const OPEN: &str = "\
select c.child from {s}.child c
where c.parent = $1 and c.policy = 1
  and exists (select 1 from {s}.run p where p.id = $1 and p.state in (6, 7, 8) offset 0)
  and exists (select 1 from {s}.run r where r.id = c.child and r.state in (1, 2, 3, 5) offset 0)
order by c.parent, c.child limit $2";

pub(super) async fn open(store: &PostgresStore, parent: RunKey, limit: i64) -> Result<Vec<RunKey>> {
    let mut session = store.pool.session(&store.shared).await?;
    session.rows(session.q(OPEN).bind(parent).bind(limit)).await?.iter().map(|row| read(row.try_get(0))).collect()
}

const CLOSED: &str = "delete from {s}.timer where run_id = $1 and kind = 7";

pub(super) async fn closed(store: &PostgresStore, parent: RunKey) -> Result<()> {
    let mut session = store.pool.session(&store.shared).await?;
    session.run(session.q(CLOSED).bind(parent)).await.map(|_| ())
}
