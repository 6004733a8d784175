//! Rows that commit with a step: messages, events, children, consumed messages, closed waits. All of runs this transaction holds.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{data, read};
use crate::store::{NewMessage, Parent, Payload, Position, Result, RunKey};

const MESSAGES: &str = "\
insert into {s}.message (run_id, topic, ord, id, sender, at, token, codec, key_id, value)
select u.run_id, u.topic, u.ord, u.id, u.sender, statement_timestamp(), u.token, u.codec, u.key_id, u.value
from unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::uuid[], $6::bigint[], $7::smallint[], $8::text[], $9::bytea[])
  as u(run_id, topic, ord, id, sender, token, codec, key_id, value)
on conflict do nothing returning run_id, id";

/// Which of these messages are new; the others had arrived before.
pub(super) async fn send(session: &mut Session, messages: &[(Option<RunKey>, &NewMessage)]) -> Result<HashSet<(RunKey, Uuid)>> {
    let statement = session
        .q(MESSAGES)
        .bind(messages.iter().map(|(_, m)| m.to).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.topic.as_str()).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.ord).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.id).collect::<Vec<_>>())
        .bind(messages.iter().map(|(from, _)| *from).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.token).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.value.codec).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| m.value.key_id.as_deref()).collect::<Vec<_>>())
        .bind(messages.iter().map(|(_, m)| data(&m.value)).collect::<Vec<_>>());
    session.rows(statement).await?.iter().map(|row| Ok((read(row.try_get(0))?, read(row.try_get(1))?))).collect()
}

const EVENTS: &str = "\
insert into {s}.event (run_id, key, at, codec, key_id, value)
select u.run_id, u.key, statement_timestamp(), u.codec, u.key_id, u.value
from unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::bytea[]) as u(run_id, key, codec, key_id, value)
on conflict (run_id, key) do update set at = excluded.at, codec = excluded.codec, key_id = excluded.key_id, value = excluded.value";

pub(super) async fn publish(session: &mut Session, events: &[(RunKey, &str, &Payload)]) -> Result<()> {
    let statement = session
        .q(EVENTS)
        .bind(events.iter().map(|e| e.0).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.1).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.2.codec).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.2.key_id.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| data(e.2)).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

/// A run that was there before, and was only attached to by its id, is nobody's child: it does not end with who waits for it.
const CHILDREN: &str = "\
insert into {s}.child (parent, child, segment, branch, seq, policy)
select u.parent, u.child, u.segment, u.branch, u.seq, u.policy
from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::int[], $6::smallint[]) as u(parent, child, segment, branch, seq, policy)
where exists (select 1 from {s}.run_info i where i.run_id = u.child and i.parent = u.parent offset 0)
on conflict do nothing";

pub(super) async fn adopt_children(session: &mut Session, children: &[(&Parent, RunKey, &Position)]) -> Result<()> {
    let statement = session
        .q(CHILDREN)
        .bind(children.iter().map(|c| c.0.run).collect::<Vec<_>>())
        .bind(children.iter().map(|c| c.1).collect::<Vec<_>>())
        .bind(children.iter().map(|c| c.2.segment).collect::<Vec<_>>())
        .bind(children.iter().map(|c| &*c.2.branch).collect::<Vec<_>>())
        .bind(children.iter().map(|c| c.2.seq).collect::<Vec<_>>())
        .bind(children.iter().map(|c| c.0.policy as i16).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const CONSUME: &str = "\
update {s}.message x set consumed = u.done
from unnest($1::uuid[], $2::uuid[], $3::int[]) as u(run_id, id, done),
     lateral (select m.ctid as c from {s}.message m where m.run_id = u.run_id and m.id = u.id offset 0) l
where x.ctid = l.c";

pub(super) async fn consume(session: &mut Session, messages: &[(RunKey, Uuid, i32)]) -> Result<()> {
    let statement = session
        .q(CONSUME)
        .bind(messages.iter().map(|m| m.0).collect::<Vec<_>>())
        .bind(messages.iter().map(|m| m.1).collect::<Vec<_>>())
        .bind(messages.iter().map(|m| m.2).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const CLOSE: &str = "\
delete from {s}.waiter x
using unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) as u(run_id, segment, branch, seq),
      lateral (select w.ctid as c from {s}.waiter w
               where w.run_id = u.run_id and w.segment = u.segment and w.branch = u.branch and w.seq = u.seq offset 0) l
where x.ctid = l.c";

pub(super) async fn close_waits(session: &mut Session, waits: &[(RunKey, &Position)]) -> Result<()> {
    let statement = session
        .q(CLOSE)
        .bind(waits.iter().map(|w| w.0).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.1.segment).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| &*w.1.branch).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.1.seq).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}
