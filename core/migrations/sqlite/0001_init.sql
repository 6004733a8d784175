-- Everstep schema, version 1, for SQLite. Expand-only from here on: never edit a released migration.
-- The tables and columns of migrations/postgres/0001_init.sql. Times are microseconds since the Unix epoch, uuids 16-byte blobs, booleans 0 or 1.
-- Narrow rows live in their key (`without rowid`); rows with payloads are appended, and only their keys are spread over the tree:
-- a batch of 200 steps of 200 runs would otherwise write 200 pages to the log instead of 15.

create table meta (
    key   text primary key,
    value text not null
) strict, without rowid;

create table run (
    id          blob    not null primary key,
    owner       blob,
    claim_token integer not null default 0,
    route       integer not null,
    epoch       integer not null,
    inbox       integer not null default 0,
    priority    integer not null default 0,
    segment     integer not null default 0,
    crash_mark  integer not null default -1,
    crashes     integer not null default 0,
    run_attempt integer not null default 1,
    state       integer not null,
    slotted     integer not null default 0,
    timed       integer not null default 0,
    keyed       integer not null default 0
) strict, without rowid;
create index run_owner on run (owner, id) where owner is not null;
create index run_attention on run (state, id) where state in (5, 7, 8);

-- Claim order is the primary key. The second key is SQLite's own: a cancel deletes by run, and a scan of a long backlog would hold the one writer.
create table ready (
    route    integer not null,
    priority integer not null,
    ord      integer not null,
    run_id   blob    not null,
    fairness_key text,
    primary key (route, priority, ord, run_id)
) strict, without rowid;
create index ready_run on ready (run_id);

create table route (
    id        integer not null primary key,
    namespace text not null,
    queue     text not null,
    workflow  text not null,
    label     text not null default ''
) strict, without rowid;

-- 1 wake, 2 start, 3 deadline, 4 expiry, 5 retry, 6 end of cancel grace
create table timer (
    run_id blob    not null,
    kind   integer not null,
    due_at integer not null,
    primary key (run_id, kind)
) strict, without rowid;
create index timer_due on timer (due_at);

create table run_info (
    run_id        blob    not null primary key,
    namespace     text    not null,
    id_text       text,
    workflow      text    not null,
    version       text,
    queue         text    not null default '',
    label         text    not null default '',
    created_at    integer not null,
    start_at      integer,
    expires_at    integer,
    deadline_at   integer,
    parent        blob,
    root          blob    not null,
    close_policy  integer,
    forked_from   blob,
    trace_parent  text,
    trace_state   text,
    attributes    text,
    fairness_key  text,
    cost          integer not null default 1,
    created_by    text,
    options       text,
    new_effects   integer not null default 0,
    start_token   integer not null default 0,
    input_codec   integer not null default 0,
    input_key_id  text,
    input         blob,
    check (id_text is null or octet_length(id_text) between 1 and 255)
) strict;
create index run_info_created on run_info (namespace, created_at, run_id);
create index run_info_parent on run_info (parent) where parent is not null;

create table outcome (
    run_id        blob    not null primary key,
    state         integer not null,
    epoch         integer not null,
    token         integer not null,
    written_by    blob,
    at            integer not null,
    error_type    text,
    error_message text,
    codec         integer not null default 0,
    key_id        text,
    value         blob
) strict;

create table run_note (
    run_id        blob not null primary key,
    cancel_by     text,
    cancel_why    text,
    cancel_at     integer,
    cancel_until  integer,
    blocked_why   text,
    blocked_build text,
    blocked_at    integer,
    slow_steps    text,    -- JSON: name, location and milliseconds of steps that had been running for long at slow_at, in this epoch
    slow_epoch    integer,
    slow_at       integer
) strict, without rowid;

create table step (
    run_id     blob    not null,
    at         integer not null,
    site       integer not null,
    digest     integer,
    token      integer not null,
    took_us    integer not null,
    written_by blob    not null,
    segment    integer not null,
    seq        integer not null,
    done       integer not null,
    seen       integer not null,
    epoch      integer not null,
    attempt    integer not null,
    kind       integer not null,
    codec      integer not null default 1,
    failed     integer not null default 0,
    branch     text    not null,
    key_id     text,
    output     blob,
    primary key (run_id, segment, branch, seq)
) strict;

create table attempt (
    run_id     blob    not null,
    segment    integer not null,
    branch     text    not null,
    seq        integer not null,
    attempt    integer not null,
    started    integer not null,
    site       integer not null,
    at         integer not null,
    retry_at   integer,
    written_by blob    not null,
    epoch      integer not null,
    token      integer not null,
    codec      integer not null default 0,
    key_id     text,
    error      blob,
    primary key (run_id, segment, branch, seq, attempt, started)
) strict;

create table waiter (
    run_id  blob    not null,
    segment integer not null,
    branch  text    not null,
    seq     integer not null,
    kind    integer not null,
    due_at  integer,
    target  blob,
    key     text    not null default '',
    site    integer not null,
    primary key (run_id, segment, branch, seq)
) strict, without rowid;
create index waiter_target on waiter (target) where target is not null;

create table message (
    run_id   blob    not null,
    topic    text    not null,
    ord      integer not null,
    id       blob    not null,
    sender   blob,
    at       integer not null,
    token    integer not null,
    consumed integer,
    codec    integer not null default 1,
    key_id   text,
    value    blob,
    primary key (run_id, id)
) strict;
create index message_pending on message (run_id, topic, ord, id) where consumed is null;

create table event (
    run_id blob    not null,
    key    text    not null,
    at     integer not null,
    codec  integer not null default 1,
    key_id text,
    value  blob,
    primary key (run_id, key)
) strict;

create table child (
    parent  blob    not null,
    child   blob    not null,
    segment integer not null,
    branch  text    not null,
    seq     integer not null,
    policy  integer not null,
    primary key (parent, child)
) strict, without rowid;

create table queue (
    namespace      text    not null,
    name           text    not null,
    paused         integer not null default 0,
    fleet_limit    integer,
    worker_limit   integer,
    key_limit      integer,
    hold           integer not null default 0,
    rate_count     integer,
    rate_period_ms integer,
    operator       integer not null default 0,
    version        integer not null default 1,
    primary key (namespace, name)
) strict, without rowid;

create table slot (
    run_id       blob    not null primary key,
    namespace    text    not null,
    queue        text    not null,
    fairness_key text,
    at           integer not null
) strict, without rowid;
create index slot_queue on slot (namespace, queue, fairness_key);

create table dedup (
    namespace  text    not null,
    queue      text    not null,
    key        text    not null,
    scope      integer not null,
    run_id     blob    not null,
    expires_at integer,
    primary key (namespace, queue, key)
) strict, without rowid;
create index dedup_run on dedup (run_id);

create table tombstone (
    run_id     blob    not null primary key,
    expires_at integer not null
) strict, without rowid;

create table worker (
    incarnation    blob    not null primary key,
    lease_until    integer not null,
    namespace      text    not null,
    lanes          integer not null,
    protocol       integer not null,
    schema_version integer not null,
    pid            integer not null,
    process_start  integer not null,
    host           text    not null,
    boot_id        text    not null,
    pid_namespace  text    not null,
    build          text    not null,
    language       text    not null,
    queues         text    not null,
    environment    text    not null,
    started_at     integer not null
) strict, without rowid;

create table lease (
    incarnation blob    not null,
    lane        integer not null,
    primary key (incarnation, lane)
) strict, without rowid;

create table dead_worker (
    incarnation blob    not null primary key,
    at          integer not null,
    txid        integer not null,
    pid         integer not null,
    host        text    not null,
    build       text    not null,
    graceful    integer not null default 0,
    drained     integer not null default 0
) strict, without rowid;
create index dead_worker_open on dead_worker (incarnation) where drained = 0;

create table site (
    id       integer not null primary key,
    name     text not null,
    location text not null default ''
) strict, without rowid;

create table control_log (
    run_id blob    not null,
    at     integer not null,
    action text    not null,
    actor  text    not null,
    detail text,
    id     blob    not null,
    primary key (run_id, at, id)
) strict, without rowid;

create table offer (
    run_id blob not null,
    build  text not null,
    primary key (run_id, build)
) strict, without rowid;

-- The documented way to look at the tables with plain SQL: names and meanings here are stable, the tables are not. As in the tables, ids are
-- blobs (`hex(id)`), times microseconds (`datetime(created_at / 1000000, 'unixepoch')`), payloads bytes (`cast(output as text)` shows JSON).
create view runs as
select i.run_id as id, i.id_text, i.namespace, i.workflow, i.version, i.queue, i.label,
       case r.state when 1 then 'ready' when 2 then 'running' when 3 then 'waiting' when 4 then 'cancelling' when 5 then 'blocked'
                    when 6 then 'succeeded' when 7 then 'failed' when 8 then 'cancelled' end as state,
       r.epoch, r.segment, r.priority, r.crashes, r.run_attempt, r.owner, i.parent, i.root, i.forked_from, i.attributes, i.fairness_key,
       i.cost, i.created_by, i.trace_parent, i.created_at, i.start_at, i.deadline_at, i.expires_at, o.at as finished_at,
       o.error_type, o.error_message, n.cancel_by, n.cancel_why, n.cancel_at,
       case when r.state = 5 then n.blocked_why end as blocked_why, i.input, o.value as outcome
from run_info i
join run r on r.id = i.run_id
left join outcome o on o.run_id = i.run_id
left join run_note n on n.run_id = i.run_id;

create view steps as
select s.run_id, s.segment, s.branch, s.seq,
       case s.kind when 1 then 'step' when 2 then 'transaction' when 3 then 'sleep' when 4 then 'receive' when 5 then 'send'
                   when 6 then 'event_set' when 7 then 'event' when 8 then 'child' when 9 then 'result' when 10 then 'value'
                   when 11 then 'patch' when 12 then 'group' when 13 then 'cancel_seen' else 'kind ' || s.kind end as kind,
       t.name, t.location, s.failed, s.attempt, s.done, s.took_us, s.at as recorded_at, s.epoch, s.written_by,
       coalesce(w.host, d.host) as host, coalesce(w.pid, d.pid) as pid, s.output
from step s
left join site t on t.id = s.site
left join worker w on w.incarnation = s.written_by
left join dead_worker d on d.incarnation = s.written_by;

create view queues as
select q.namespace, q.name, q.paused, q.fleet_limit, q.worker_limit, q.key_limit, q.hold, q.rate_count, q.rate_period_ms, q.operator,
       (select count(*) from route t join ready y on y.route = t.id where t.namespace = q.namespace and t.queue = q.name) as ready,
       (select count(*) from slot s where s.namespace = q.namespace and s.queue = q.name) as slots_taken,
       (select min(y.ord) from route t join ready y on y.route = t.id where t.namespace = q.namespace and t.queue = q.name) as oldest_ready
from queue q;

create view workers as
select w.incarnation, w.namespace, w.host, w.pid, w.language, w.build, w.protocol, w.schema_version, w.environment, w.queues, w.started_at,
       w.lease_until, w.lease_until > unixepoch('subsec') * 1000000 as alive,
       (select count(*) from run r where r.owner = w.incarnation) as runs
from worker w;

-- Runs that will not get on by themselves, or have not for a minute, and why.
create view stuck as
select i.run_id as id, i.id_text, i.workflow, i.queue, 'blocked' as why, n.blocked_why as detail, n.blocked_at as since
from run r join run_info i on i.run_id = r.id left join run_note n on n.run_id = r.id
where r.state in (5, 7, 8) and r.state = 5
union all
select i.run_id, i.id_text, i.workflow, i.queue,
       case when coalesce(q.paused, 0) then 'its queue is paused' else 'ready, and no worker takes it' end, null, i.created_at
from ready y join run_info i on i.run_id = y.run_id
left join queue q on q.namespace = i.namespace and q.name = i.queue
where i.created_at < (unixepoch('subsec') - 60) * 1000000
union all
select i.run_id, i.id_text, i.workflow, i.queue, 'its worker''s lease is over', w.host || ' pid ' || w.pid, w.lease_until
from worker w join run r on r.owner = w.incarnation join run_info i on i.run_id = r.id
where w.lease_until < (unixepoch('subsec') - 60) * 1000000;
