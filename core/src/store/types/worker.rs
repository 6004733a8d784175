//! Workers, their leases and the housekeeping tick.

use uuid::Uuid;

use super::run::RunKey;

#[derive(Debug, Clone)]
pub struct WorkerInfo {
    pub incarnation: Uuid,
    pub lanes: i16,
    pub lease_ms: i64,
    pub host: String,
    pub boot_id: String,
    pub pid_namespace: String,
    pub pid: i32,
    /// Clock ticks since boot, from /proc: with `pid`, names one process.
    pub process_start: i64,
    pub build: String,
    pub language: String,
    pub queues: Vec<String>,
    pub environment: String,
    pub protocol: i32,
    pub schema: i32,
}

/// A live lease of another worker on this host.
#[derive(Debug, Clone)]
pub struct Peer {
    pub incarnation: Uuid,
    pub boot_id: String,
    pub pid_namespace: String,
    pub pid: i32,
    pub process_start: i64,
}

#[derive(Debug, Clone)]
pub struct TickRequest {
    /// None: this process holds no lease now.
    pub incarnation: Option<Uuid>,
    pub lease_ms: i64,
    /// False while this process has itself been connected for less than one lease.
    pub may_reap: bool,
    /// A worker whose session is gone and that has not beaten for so long is dead before its lease is out.
    pub silent_ms: i64,
    /// Workers of this host whose process is gone: reaped whatever their lease says and `may_reap` is.
    pub known_dead: Vec<Uuid>,
    /// Rows one tick moves at most, of each sort.
    pub page: i64,
    /// What a run whose deadline has passed has for its clean-up.
    pub cancel_grace_ms: i64,
    /// A run with so many crashes without progress is blocked at takeover.
    pub max_crashes: i32,
    pub boot_id: String,
    /// Routes on which to look for runs that wait although nobody said so; empty: do not look.
    pub routes: Vec<i64>,
}

/// Children of an ended run are taken on by another process when whoever took them on has not been heard of for so long.
pub const CLOSE_AGAIN_MS: i64 = 10_000;

#[derive(Debug, Clone, Default)]
pub struct TickReport {
    /// The own lease stands (true when none was asked for).
    pub alive: bool,
    pub reaped: Vec<Uuid>,
    /// Runs of dead workers put back to `Ready` (or `Blocked`) in this tick.
    pub orphans: i64,
    /// Timers that fired in this tick.
    pub timers: i64,
    /// Ended runs whose children this caller is to close now: nobody else will for `CLOSE_AGAIN_MS`.
    pub closing: Vec<RunKey>,
    /// A page was full: tick again at once.
    pub more: bool,
    /// Something became claimable.
    pub ready: bool,
    /// Grows with every change of any queue.
    pub queue_version: i64,
    pub next_timer_ms: Option<i64>,
    /// Until the earliest lease of another worker runs out.
    pub next_lease_ms: Option<i64>,
    /// Until the last lease of another worker of this namespace runs out: so long somebody else is awake.
    pub others_ms: Option<i64>,
    /// On the routes of the request somebody waits, longer than a hint takes.
    pub overlooked: bool,
    /// Live workers with the caller's `boot_id`, without the caller.
    pub peers: Vec<Peer>,
}

/// A hint that something may have changed; correctness never depends on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeHint {
    /// Something became claimable.
    Ready,
    /// Something became claimable on this route, or, by the queue's own number, in this queue (see `engine::identity`).
    ReadyOn(i64),
    /// On this route something is left by a worker that has no room.
    Left(i64),
    /// A timer was set by a process that may not be there when it is due, in so many milliseconds.
    Timer(i64),
    /// A worker has taken a lease of so many milliseconds.
    Lease(i64),
    /// The inbox of a run owned by this incarnation moved, or a cancel was requested.
    Inbox(Uuid),
    /// A run ended or an event was published that somebody outside may await.
    Finished,
    /// Somebody awaits the ends of runs of other processes: tell `Finished` for the next 30 s.
    Awaiting,
    /// A queue changed: tick.
    Queues,
    /// The source was interrupted: hints may have been missed.
    Resync,
}
