//! That something may have changed. SQLite has no LISTEN: within the process a hint is handed over at once, and what other processes
//! commit shows in `PRAGMA data_version`.
//!
//! It is asked on the writer, because that number leaves out what its own connection committed: asked anywhere else, every batch of
//! this process would look like news.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::SqliteStore;
use super::connection::Location;
use super::held::Held;
use super::value::Columns as _;
use crate::store::{Result, WakeHint};

/// How often to ask, by how long ago the last change of another process was seen.
const BUSY: Duration = Duration::from_millis(5);
const CALM: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(250);
const BUSY_FOR: Duration = Duration::from_secs(1);
const CALM_FOR: Duration = Duration::from_secs(10);

pub(super) struct Hints {
    pending: Mutex<Vec<WakeHint>>,
    notify: Notify,
    seen: Mutex<Seen>,
}

struct Seen {
    version: Option<i64>,
    changed: Instant,
    world: World,
}

/// What is worth telling apart after a change of another process, so that a heartbeat or another's batch costs this one little.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct World {
    queues: i64,
    next_timer: Option<i64>,
    inboxes: i64,
}

impl Hints {
    pub(super) fn new() -> Self {
        // A store that has just opened finds nothing; it looks as if the last change had long been seen.
        Hints {
            pending: Mutex::new(Vec::new()),
            notify: Notify::new(),
            seen: Mutex::new(Seen { version: None, changed: Instant::now(), world: World::default() }),
        }
    }

    pub(super) fn give(&self, hints: &[WakeHint]) {
        let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        for hint in hints {
            if !pending.contains(hint) {
                pending.push(hint.clone());
            }
        }
        drop(pending);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<WakeHint> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn interval(&self) -> Duration {
        let quiet = self.seen.lock().unwrap_or_else(|e| e.into_inner()).changed.elapsed();
        match quiet {
            quiet if quiet < BUSY_FOR => BUSY,
            quiet if quiet < CALM_FOR => CALM,
            _ => IDLE,
        }
    }

    /// True when the number moved since it was last asked for.
    fn note(&self, version: i64) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let moved = seen.version.is_some_and(|before| before != version);
        seen.version = Some(version);
        if moved {
            seen.changed = Instant::now();
        }
        moved
    }

    fn forget(&self) -> bool {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).version.take().is_some()
    }
}

impl SqliteStore {
    pub(super) async fn wait_for_hints(&self) -> Vec<WakeHint> {
        loop {
            let given = self.hints.take();
            if !given.is_empty() {
                return given;
            }
            tokio::select! {
                () = self.hints.notify.notified() => {}
                () = tokio::time::sleep(self.hints.interval()), if matches!(self.location, Location::File(_)) => {
                    match self.data_version().await {
                        Ok(Some(version)) if self.hints.note(version) => return self.what_changed().await.unwrap_or_else(|_| vec![WakeHint::Resync]),
                        Ok(_) => {}
                        Err(_) if self.hints.forget() => return vec![WakeHint::Resync],
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Never a hint that makes its hearer write when all that happened was a write: two processes would keep each other awake.
    async fn what_changed(&self) -> Result<Vec<WakeHint>> {
        let incarnations: Vec<Uuid> = self.locks().keys().copied().collect();
        let mut conn = self.read().await?;
        let sql = "select (select coalesce(sum(version), 0) from queue), (select min(due_at) from timer)";
        let mut world = World::default();
        if let Some(row) = conn.fetch_one(sql, Vec::new()).await? {
            (world.queues, world.next_timer) = (row.int(0)?, row.opt_int(1)?);
        }
        for row in conn.fetch_keys("select coalesce(sum(inbox), 0) from run where owner in ({list})", &[], incarnations).await? {
            world.inboxes += row.int(0)?;
        }
        let before = std::mem::replace(&mut self.hints.seen.lock().unwrap_or_else(|e| e.into_inner()).world, world);
        let mut hints = vec![WakeHint::Ready, WakeHint::Finished];
        if world.inboxes != before.inboxes {
            hints.push(WakeHint::Inbox(Uuid::nil()));
        }
        let sooner = world.next_timer.is_some_and(|at| before.next_timer.is_none_or(|was| at < was));
        if world.queues != before.queues {
            hints.push(WakeHint::Queues);
        }
        if let (true, Some(at)) = (sooner, world.next_timer) {
            hints.push(WakeHint::Timer(super::rows::until_ms(at, super::rows::now_us())));
        }
        Ok(hints)
    }

    /// None while a transaction of this process has the writer: it is asked again after the interval.
    async fn data_version(&self) -> Result<Option<i64>> {
        let Some(conn) = Held::take_free(&self.writer).await else { return Ok(None) };
        let mut conn = conn?;
        let row = conn.fetch_one("pragma data_version", Vec::new()).await?;
        row.map(|row| row.int(0)).transpose()
    }
}
