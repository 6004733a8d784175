//! Workers that are there: their rows, their leases, their lock files.

use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use super::SqliteStore;
use super::connection::{Connection, Location};
use super::rows::{later, now_us};
use super::value::{Columns as _, vals};
use super::wake::{lend_slots, make_ready};
use crate::store::{Result, StoreError, WorkerInfo};

/// Runs handed back in one pass of a graceful stop.
const PAGE: i64 = 500;

impl SqliteStore {
    /// Beside the database, never inside it: any close of the database file by other means than SQLite would drop SQLite's own locks.
    fn lock_path(&self, incarnation: Uuid) -> Option<PathBuf> {
        let Location::File(path) = &self.location else { return None };
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".lock-{}", incarnation.simple()));
        Some(name.into())
    }

    /// `flock` belongs to the open file, so another store in this very process sees it too, and the kernel drops it when the process ends.
    fn hold_lock(&self, incarnation: Uuid) -> Result<()> {
        let Some(path) = self.lock_path(incarnation) else { return Ok(()) };
        // From a call of unknown outcome: opened anew it would be locked out by itself. Unless a reaper has taken the file away meanwhile.
        if self.locks().contains_key(&incarnation) && path.exists() {
            return Ok(());
        }
        let failed = |e: std::io::Error| StoreError::Unavailable(format!("the worker's lock file: {e}"));
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        self.locks().insert(incarnation, file);
        Ok(())
    }

    pub(super) fn drop_lock(&self, incarnation: Uuid) {
        self.locks().remove(&incarnation);
        if let Some(path) = self.lock_path(incarnation)
            && let Err(e) = std::fs::remove_file(path)
        {
            // Gone already, or not ours to delete: a lock file nobody holds says what a missing row says.
            drop(e);
        }
    }

    /// A worker of this host whose lock can be taken has ended, whatever its lease says. No file: nothing is known.
    pub(super) fn is_gone(&self, incarnation: Uuid) -> bool {
        let Some(path) = self.lock_path(incarnation) else { return false };
        let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    pub(super) async fn register_worker(&self, worker: &WorkerInfo) -> Result<()> {
        self.hold_lock(worker.incarnation)?;
        crate::failpoint!("store.register.before");
        let mut tx = match self.write().await {
            Ok(tx) => tx,
            Err(e) => {
                self.drop_lock(worker.incarnation);
                return Err(e);
            }
        };
        let outcome = insert_worker(&mut tx, &self.namespace, worker).await;
        let done = tx.finish(outcome).await;
        crate::failpoint!("store.register.after");
        if let Err(StoreError::Rejected { .. } | StoreError::Setup { .. }) = &done {
            self.drop_lock(worker.incarnation);
        }
        done
    }

    pub(super) async fn beat_worker(&self, incarnation: Uuid, lease_ms: i64) -> Result<bool> {
        let mut tx = self.write_next().await?;
        let outcome = beat(&mut tx, incarnation, lease_ms).await;
        tx.finish(outcome).await
    }

    /// The lease first: from then on nothing of this incarnation is accepted; then its runs in pages, so that the writer is free between.
    pub(super) async fn deregister_worker(&self, incarnation: Uuid) -> Result<()> {
        let mut tx = self.write().await?;
        let outcome = bury(&mut tx, now_us(), incarnation, true).await;
        tx.finish(outcome).await?;
        loop {
            let mut tx = self.write().await?;
            let outcome = hand_back(&mut tx, now_us(), incarnation).await;
            if tx.finish(outcome).await? < PAGE {
                break;
            }
        }
        self.drop_lock(incarnation);
        Ok(())
    }
}

async fn insert_worker(conn: &mut Connection, namespace: &str, worker: &WorkerInfo) -> Result<()> {
    let now = now_us();
    let queues = serde_json::to_string(&worker.queues).unwrap_or_default();
    // Said again after an unknown outcome: the incarnation is this process's own, so the row can only be ours.
    let sql = "insert or replace into worker(incarnation, lease_until, namespace, lanes, protocol, schema_version, pid, process_start, host, boot_id, \
               pid_namespace, build, language, queues, environment, started_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let row = vals![
        worker.incarnation,
        later(now, worker.lease_ms),
        namespace,
        worker.lanes,
        worker.protocol,
        worker.schema,
        worker.pid,
        worker.process_start,
        &worker.host,
        &worker.boot_id,
        &worker.pid_namespace,
        &worker.build,
        &worker.language,
        queues,
        &worker.environment,
        now,
    ];
    conn.exec(sql, row).await?;
    let lanes = (0..worker.lanes.max(1)).flat_map(|lane| vals![worker.incarnation, lane]).collect();
    conn.write_rows("insert or ignore into lease(incarnation, lane) values {rows}", 2, lanes).await.map(drop)
}

pub(super) async fn beat(conn: &mut Connection, incarnation: Uuid, lease_ms: i64) -> Result<bool> {
    let until = later(now_us(), lease_ms);
    Ok(conn.exec("update worker set lease_until = ? where incarnation = ?", vals![until, incarnation]).await? > 0)
}

/// Worker and lease rows go; the dead are remembered until no run is left in their name. False: somebody else was first.
pub(super) async fn bury(conn: &mut Connection, now: i64, incarnation: Uuid, graceful: bool) -> Result<bool> {
    // It may have been buried before: a registration of unknown outcome is said again, and by then the first may have run out.
    let sql = "insert into dead_worker(incarnation, at, txid, pid, host, build, graceful) \
               select incarnation, ?, 0, pid, host, build, ? from worker where incarnation = ? \
               on conflict (incarnation) do update set at = excluded.at, graceful = excluded.graceful, drained = 0";
    conn.exec(sql, vals![now, graceful, incarnation]).await?;
    conn.exec("delete from lease where incarnation = ?", vals![incarnation]).await?;
    Ok(conn.exec("delete from worker where incarnation = ?", vals![incarnation]).await? > 0)
}

async fn hand_back(conn: &mut Connection, now: i64, incarnation: Uuid) -> Result<i64> {
    let sql = concat!("select ", super::rows::run_columns!(), " from run where owner = ? order by id limit ?");
    let rows = conn.fetch(sql, vals![incarnation, PAGE]).await?;
    let runs: Vec<_> = rows.iter().map(super::rows::run_row).collect::<Result<_>>()?;
    lend_slots(conn, &runs).await?;
    make_ready(conn, now, &runs, true).await?;
    let n = i64::try_from(runs.len()).unwrap_or(i64::MAX);
    if n < PAGE {
        conn.exec("update dead_worker set drained = 1 where incarnation = ?", vals![incarnation]).await?;
    }
    Ok(n)
}

/// The rows a page of orphans is made of: workers that ended without handing back.
pub(super) async fn undrained(conn: &mut Connection) -> Result<Vec<(Uuid, bool)>> {
    let rows = conn.fetch("select incarnation, graceful from dead_worker where drained = 0", Vec::new()).await?;
    rows.iter().map(|row| Ok((row.uuid(0)?, row.flag(1)?))).collect()
}
