-- Everstep schema, version 1. Expand-only from here on: never edit a released migration.
-- `{schema}` is replaced by the quoted schema name. States, kinds and policies are the numbers of core/docs/states.md and core/ops.toml.

create table {schema}.meta (
    key   text primary key,
    value text not null
);

-- Hot and narrow: one insert and one or two updates in a run's life. No foreign keys, two partial indexes at most.
create table {schema}.run (
    id          uuid primary key,
    owner       uuid,
    claim_token bigint   not null default 0,
    route       bigint   not null,
    epoch       integer  not null,
    inbox       integer  not null default 0,
    priority    integer  not null default 0,
    segment     integer  not null default 0,
    crash_mark  integer  not null default -1,   -- rows recorded when it was last taken over
    crashes     smallint not null default 0,
    run_attempt smallint not null default 1,
    state       smallint not null,
    slotted     boolean  not null default false, -- holds a row in slot
    timed       boolean  not null default false, -- has rows in timer
    keyed       boolean  not null default false  -- has a row in dedup
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index run_owner on {schema}.run (owner, id) where owner is not null;
create index run_attention on {schema}.run (state, id) where state in (5, 7, 8);

-- Claim order is the primary key: a dispatcher looks only at routes it serves. Deleted, never flagged.
create table {schema}.ready (
    route    bigint  not null,
    priority integer not null,
    ord      bigint  not null,   -- microseconds of the insert: first in, first out in one priority
    run_id   uuid    not null,
    fairness_key text,
    primary key (route, priority, ord, run_id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create table {schema}.route (
    id        bigint primary key,
    namespace text not null,
    queue     text not null,
    workflow  text not null,
    label     text not null default ''
);

-- 1 wake, 2 start, 3 deadline, 4 expiry, 5 retry, 6 end of cancel grace
create table {schema}.timer (
    run_id uuid        not null,
    kind   smallint    not null,
    due_at timestamptz not null,
    primary key (run_id, kind)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index timer_due on {schema}.timer (due_at);

-- Cold side of a run: written once at the start.
create table {schema}.run_info (
    run_id        uuid primary key,
    namespace     text        not null,
    id_text       text,
    workflow      text        not null,
    version       text,
    queue         text        not null default '',
    label         text        not null default '',
    created_at    timestamptz not null,
    start_at      timestamptz,
    expires_at    timestamptz,
    deadline_at   timestamptz,
    parent        uuid,
    root          uuid        not null,
    close_policy  smallint,
    forked_from   uuid,
    trace_parent  text,
    trace_state   text,
    attributes    text,
    fairness_key  text,
    cost          integer     not null default 1,
    created_by    text,
    options       text,
    new_effects   integer     not null default 0, -- rewinds that asked for new idempotency keys
    start_token   bigint      not null default 0, -- tells "my insert" after an unknown outcome; run.claim_token is each claim's own
    input_codec   smallint    not null default 0,
    input_key_id  text,
    input         bytea,
    check (id_text is null or octet_length(id_text) between 1 and 255)
);
create index run_info_created on {schema}.run_info (namespace, created_at, run_id);
create index run_info_parent on {schema}.run_info (parent) where parent is not null;

-- The end of a run; deleted by a recorded retry, resume or rewind.
create table {schema}.outcome (
    run_id        uuid primary key,
    state         smallint    not null,
    epoch         integer     not null,
    token         bigint      not null,
    written_by    uuid,
    at            timestamptz not null,
    error_type    text,
    error_message text,
    codec         smallint    not null default 0,
    key_id        text,
    value         bytea
);

-- Requests and reasons beside the hot row: cancel, block, what runs for long.
create table {schema}.run_note (
    run_id       uuid primary key,
    cancel_by    text,
    cancel_why   text,
    cancel_at    timestamptz,
    cancel_until timestamptz,
    blocked_why  text,
    blocked_build text,
    blocked_at   timestamptz,
    slow_steps   text,           -- JSON: name, location and milliseconds of steps that had been running for long at slow_at, in this epoch
    slow_epoch   integer,
    slow_at      timestamptz
);

create table {schema}.step (
    run_id     uuid        not null,
    at         timestamptz not null,
    site       bigint      not null,
    digest     bigint,
    token      bigint      not null,
    took_us    bigint      not null,
    written_by uuid        not null,
    segment    integer     not null,
    seq        integer     not null,
    done       integer     not null,
    seen       integer     not null,
    epoch      integer     not null,
    attempt    smallint    not null,
    kind       smallint    not null,
    codec      smallint    not null default 1,
    failed     boolean     not null default false,
    branch     text collate "C" not null,
    key_id     text,
    output     bytea,
    primary key (run_id, segment, branch, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.2);

create table {schema}.attempt (
    run_id     uuid        not null,
    segment    integer     not null,
    branch     text collate "C" not null,
    seq        integer     not null,
    attempt    integer     not null,
    started    boolean     not null,
    site       bigint      not null,
    at         timestamptz not null,
    retry_at   timestamptz,
    written_by uuid        not null,
    epoch      integer     not null,
    token      bigint      not null,
    codec      smallint    not null default 0,
    key_id     text,
    error      bytea,
    primary key (run_id, segment, branch, seq, attempt, started)
);

-- Open waits: what a run waits for, and who waits for a run. Deleted when the wait's step row is recorded.
create table {schema}.waiter (
    run_id  uuid     not null,
    segment integer  not null,
    branch  text collate "C" not null,
    seq     integer  not null,
    kind    smallint not null,
    due_at  timestamptz,
    target  uuid,
    key     text     not null default '',
    site    bigint   not null,
    primary key (run_id, segment, branch, seq)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index waiter_target on {schema}.waiter (target) where target is not null;

create table {schema}.message (
    run_id   uuid        not null,
    topic    text        not null,
    ord      bigint      not null,
    id       uuid        not null,
    sender   uuid,
    at       timestamptz not null,
    token    bigint      not null,
    consumed integer,             -- `done` of the receive that took it
    codec    smallint    not null default 1,
    key_id   text,
    value    bytea,
    primary key (run_id, id)
);
create index message_pending on {schema}.message (run_id, topic, ord, id) where consumed is null;

create table {schema}.event (
    run_id uuid        not null,
    key    text        not null,
    at     timestamptz not null,
    codec  smallint    not null default 1,
    key_id text,
    value  bytea,
    primary key (run_id, key)
);

create table {schema}.child (
    parent  uuid     not null,
    child   uuid     not null,
    segment integer  not null,
    branch  text collate "C" not null,
    seq     integer  not null,
    policy  smallint not null,
    primary key (parent, child)
);

create table {schema}.queue (
    namespace    text    not null,
    name         text    not null,
    paused       boolean not null default false,
    fleet_limit  integer,
    worker_limit integer,
    key_limit    integer,
    hold         boolean not null default false,
    rate_count   integer,
    rate_period_ms bigint,
    operator     boolean not null default false,
    version      bigint  not null default 1,
    primary key (namespace, name)
);

-- A claimed run of a limited queue. Counted under the queue row's lock; never a counter.
create table {schema}.slot (
    run_id       uuid primary key,
    namespace    text not null,
    queue        text not null,
    fairness_key text,
    at           timestamptz not null
);
create index slot_queue on {schema}.slot (namespace, queue, fairness_key);

create table {schema}.dedup (
    namespace text     not null,
    queue     text     not null,
    key       text     not null,
    scope     smallint not null,   -- 1 queued, 2 until done, 3 ttl
    run_id    uuid     not null,
    expires_at timestamptz,
    primary key (namespace, queue, key)
);
create index dedup_run on {schema}.dedup (run_id);

create table {schema}.tombstone (
    run_id     uuid primary key,
    expires_at timestamptz not null
);

-- Presence and heartbeat of a process; only its owner and its reaper touch the row.
create table {schema}.worker (
    incarnation   uuid primary key,
    lease_until   timestamptz not null,
    namespace     text     not null,
    lanes         smallint not null,
    protocol      integer  not null,
    schema_version integer not null,
    pid           integer  not null,
    process_start bigint   not null,
    host          text     not null,
    boot_id       text     not null,
    pid_namespace text     not null,
    build         text     not null,
    language      text     not null,
    queues        text     not null,
    environment   text     not null,
    started_at    timestamptz not null
) with (fillfactor = 50);

-- One row a commit lane: each is share-locked by one session only (two would burn a MultiXact an overlap).
create table {schema}.lease (
    incarnation uuid     not null,
    lane        smallint not null,
    primary key (incarnation, lane)
);

create table {schema}.dead_worker (
    incarnation uuid primary key,
    at          timestamptz not null,
    txid        bigint      not null,
    pid         integer     not null,
    host        text        not null,
    build       text        not null,
    graceful    boolean     not null default false,
    drained     boolean     not null default false   -- no run is left in its name
);
create index dead_worker_open on {schema}.dead_worker (incarnation) where not drained;

create table {schema}.site (
    id       bigint primary key,
    name     text not null,
    location text not null default ''
);

create table {schema}.control_log (
    run_id uuid        not null,
    at     timestamptz not null,
    action text        not null,
    actor  text        not null,
    detail text,
    id     uuid        not null,
    primary key (run_id, at, id)
);

create table {schema}.offer (
    run_id uuid not null,
    build  text not null,
    primary key (run_id, build)
);

-- The documented way to look at the tables with plain SQL (core/docs/schema.md): names and meanings here are stable, the tables are not.
-- Payloads are bytes; `convert_from(value, 'UTF8')` shows JSON.
create view {schema}.runs as
select i.run_id as id, i.id_text, i.namespace, i.workflow, i.version, i.queue, i.label,
       case r.state when 1 then 'ready' when 2 then 'running' when 3 then 'waiting' when 4 then 'cancelling' when 5 then 'blocked'
                    when 6 then 'succeeded' when 7 then 'failed' when 8 then 'cancelled' end as state,
       r.epoch, r.segment, r.priority, r.crashes, r.run_attempt, r.owner, i.parent, i.root, i.forked_from, i.attributes, i.fairness_key,
       i.cost, i.created_by, i.trace_parent, i.created_at, i.start_at, i.deadline_at, i.expires_at, o.at as finished_at,
       o.error_type, o.error_message, n.cancel_by, n.cancel_why, n.cancel_at,
       case when r.state = 5 then n.blocked_why end as blocked_why, i.input, o.value as outcome
from {schema}.run_info i
join {schema}.run r on r.id = i.run_id
left join {schema}.outcome o on o.run_id = i.run_id
left join {schema}.run_note n on n.run_id = i.run_id;

create view {schema}.steps as
select s.run_id, s.segment, s.branch, s.seq,
       case s.kind when 1 then 'step' when 2 then 'transaction' when 3 then 'sleep' when 4 then 'receive' when 5 then 'send'
                   when 6 then 'event_set' when 7 then 'event' when 8 then 'child' when 9 then 'result' when 10 then 'value'
                   when 11 then 'patch' when 12 then 'group' when 13 then 'cancel_seen' else 'kind ' || s.kind end as kind,
       t.name, t.location, s.failed, s.attempt, s.done, s.took_us, s.at as recorded_at, s.epoch, s.written_by,
       coalesce(w.host, d.host) as host, coalesce(w.pid, d.pid) as pid, s.output
from {schema}.step s
left join {schema}.site t on t.id = s.site
left join {schema}.worker w on w.incarnation = s.written_by
left join {schema}.dead_worker d on d.incarnation = s.written_by;

create view {schema}.queues as
select q.namespace, q.name, q.paused, q.fleet_limit, q.worker_limit, q.key_limit, q.hold, q.rate_count, q.rate_period_ms, q.operator,
       (select count(*) from {schema}.ready y join {schema}.route t on t.id = y.route where t.namespace = q.namespace and t.queue = q.name) as ready,
       (select count(*) from {schema}.slot s where s.namespace = q.namespace and s.queue = q.name) as slots_taken,
       (select to_timestamp(min(y.ord) / 1000000.0) from {schema}.ready y join {schema}.route t on t.id = y.route
        where t.namespace = q.namespace and t.queue = q.name) as oldest_ready
from {schema}.queue q;

create view {schema}.workers as
select w.incarnation, w.namespace, w.host, w.pid, w.language, w.build, w.protocol, w.schema_version, w.environment, w.queues, w.started_at,
       w.lease_until, w.lease_until > statement_timestamp() as alive,
       (select count(*) from {schema}.run r where r.owner = w.incarnation) as runs
from {schema}.worker w;

-- Runs that will not get on by themselves, or have not for a minute, and why.
create view {schema}.stuck as
select i.run_id as id, i.id_text, i.workflow, i.queue, 'blocked' as why, n.blocked_why as detail, n.blocked_at as since
from {schema}.run r join {schema}.run_info i on i.run_id = r.id left join {schema}.run_note n on n.run_id = r.id
where r.state = 5
union all
select i.run_id, i.id_text, i.workflow, i.queue,
       case when coalesce(q.paused, false) then 'its queue is paused' else 'ready, and no worker takes it' end, null, i.created_at
from {schema}.ready y join {schema}.run_info i on i.run_id = y.run_id
left join {schema}.queue q on q.namespace = i.namespace and q.name = i.queue
where i.created_at < statement_timestamp() - interval '1 minute'
union all
select i.run_id, i.id_text, i.workflow, i.queue, 'its worker''s lease is over', w.host || ' pid ' || w.pid, w.lease_until
from {schema}.worker w join {schema}.run r on r.owner = w.incarnation join {schema}.run_info i on i.run_id = r.id
where w.lease_until < statement_timestamp() - interval '1 minute';
