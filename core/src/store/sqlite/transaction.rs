//! Transactional steps: a user's SQL on the writer, between batches, with the checkpoint in the same COMMIT.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout_at};
use uuid::Uuid;

use super::SqliteStore;
use super::commit::is_leased;
use super::connection::{Connection, rejected};
use super::held::Transaction;
use super::rows::position_vals;
use super::value::{Columns as _, Val, vals};
use crate::store::user_sql::{NOT_YOURS, ONE_AT_A_TIME, ends_transaction, is_several};
use crate::store::{
    GuardStatement, Placeholders, Position, Result, RunKey, RunState, SqlRows, SqlValue, StepWrite, StoreError, StoreTransaction, Verdict, Write,
};

/// The writer stands still meanwhile, for every process on this file.
const LONGEST: Duration = Duration::from_secs(5);

pub(super) struct WriterTransaction {
    store: SqliteStore,
    /// None once it is over; shared with the task that ends it at its time, whatever the step is doing then.
    tx: Arc<Mutex<Option<Transaction>>>,
    until: Instant,
    watch: JoinHandle<()>,
    /// A statement that failed has taken the whole transaction with it.
    undone: bool,
}

/// The step swallowed the error of such a statement.
const UNDONE: &str = "A statement of this transaction failed and SQLite has undone all of it (`or rollback`, `raise(rollback, ..)`, a full disk). Let the error \
    out of the step.";

fn too_long() -> StoreError {
    StoreError::Setup {
        code: "transaction_too_long",
        message: "A transaction on the engine's SQLite writer took longer than 5 s and was rolled back. Do the slow work in a step before it.".into(),
    }
}

/// What a failed ROLLBACK leaves open, the next holder of the writer tidies, or opens the file anew.
async fn abandon(tx: Option<Transaction>) {
    if let Some(mut tx) = tx {
        drop(tx.set_deadline(None).await);
        drop(tx.roll_back().await);
    }
}

impl Drop for WriterTransaction {
    fn drop(&mut self) {
        // Let go of its share, so that the transaction ends with this one's.
        self.watch.abort();
        if let Ok(mut slot) = self.tx.try_lock() {
            drop(slot.take());
        }
    }
}

impl SqliteStore {
    pub(super) async fn begin_transaction(&self) -> Result<Box<dyn StoreTransaction>> {
        let mut tx = self.write().await?;
        let until = Instant::now() + LONGEST;
        tx.set_deadline(Some(until)).await?;
        let tx = Arc::new(Mutex::new(Some(tx)));
        let watched = tx.clone();
        let watch = tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let tx = watched.lock().await.take();
            abandon(tx).await;
        });
        Ok(Box::new(WriterTransaction { store: self.clone(), tx, until, watch, undone: false }))
    }

    /// Would this step's row go in now? Written and rolled back, so that a transaction still under way is waited for.
    pub(super) async fn probe_step(&self, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        let mut tx = self.write().await?;
        let outcome = async {
            if row_token(&mut tx, run, &step.at).await? == Some(step.token) {
                return Ok(Verdict::Committed);
            }
            let plain = StepWrite { effects: Vec::new(), ..step.clone() };
            Ok(match self.record_one(&mut tx, incarnation, run, epoch, &plain).await? {
                Verdict::Committed => Verdict::NotFound,
                verdict => verdict,
            })
        }
        .await;
        tx.roll_back().await?;
        outcome
    }

    async fn record_one(&self, conn: &mut Connection, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        let write = [Write::Step { run, epoch, step: Box::new(step.clone()) }];
        let leased = is_leased(conn, 0, Some(incarnation)).await?;
        let applied = self.apply(conn, leased, Some(incarnation), &write, false).await?;
        applied.verdicts.into_iter().next().ok_or_else(|| rejected("a step got no verdict".into()))
    }
}

async fn row_token(conn: &mut Connection, run: RunKey, at: &Position) -> Result<Option<i64>> {
    let mut key = vals![run];
    key.extend(position_vals(at));
    let row = conn.fetch_one("select token from step where run_id = ? and segment = ? and branch = ? and seq = ?", key).await?;
    row.map(|row| row.int(0)).transpose()
}

#[async_trait]
impl StoreTransaction for WriterTransaction {
    async fn execute(&mut self, sql: &str, params: &[SqlValue]) -> Result<SqlRows> {
        if ends_transaction(sql) {
            return Err(rejected(NOT_YOURS.into()));
        }
        if is_several(sql) {
            return Err(rejected(ONE_AT_A_TIME.into()));
        }
        if self.undone {
            return Err(rejected(UNDONE.into()));
        }
        let mut slot = self.tx.lock().await;
        let Some(tx) = slot.as_mut() else { return Err(too_long()) };
        let args = params.iter().map(Val::from).collect();
        let done = timeout_at(self.until, tx.dynamic(sql.to_string(), args)).await;
        match done {
            Ok(Err(e)) if Instant::now() < self.until => {
                // Refused inside a transaction, so that it says whether there is one. What came next would be committed by itself.
                if tx.exec("begin", Vec::new()).await.is_ok() {
                    self.undone = true;
                    abandon(slot.take()).await;
                }
                Err(e)
            }
            Ok(Ok((affected, rows))) => sql_rows(affected, &rows),
            // Its own time was over first: the statement was broken off.
            Ok(Err(_)) | Err(_) => {
                abandon(slot.take()).await;
                Err(too_long())
            }
        }
    }

    async fn commit(self: Box<Self>, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        if self.undone {
            return Ok(Verdict::Refused { message: UNDONE.into() });
        }
        let Some(mut tx) = self.tx.lock().await.take() else { return Err(too_long()) };
        if let Err(e) = tx.set_deadline(None).await {
            return tx.finish(Err(e)).await;
        }
        crate::failpoint!("store.transaction.before");
        let outcome = self.store.record_one(&mut tx, incarnation, run, epoch, step).await;
        if !matches!(outcome, Ok(Verdict::Committed)) {
            tx.roll_back().await?;
            return outcome;
        }
        let done = tx.finish(outcome).await;
        crate::failpoint!("store.transaction.after");
        done
    }

    async fn rollback(self: Box<Self>) {
        let tx = self.tx.lock().await.take();
        abandon(tx).await;
    }
}

fn sql_rows(affected: u64, rows: &[SqliteRow]) -> Result<SqlRows> {
    let columns = rows.first().map(|row| row.columns().iter().map(|c| c.name().to_string()).collect()).unwrap_or_default();
    let decode = |e: sqlx::Error| rejected(e.to_string());
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let mut values = Vec::with_capacity(row.len());
        for column in 0..row.len() {
            let raw = row.try_get_raw(column).map_err(decode)?;
            let value = match (raw.is_null(), raw.type_info().name()) {
                (true, _) => SqlValue::Null,
                (_, "TEXT") => SqlValue::Text(row.try_get_unchecked(column).map_err(decode)?),
                (_, "REAL") => SqlValue::Float(row.try_get_unchecked(column).map_err(decode)?),
                (_, "BLOB") => SqlValue::Bytes(row.try_get_unchecked(column).map_err(decode)?),
                _ => SqlValue::Int(row.try_get_unchecked(column).map_err(decode)?),
            };
            values.push(value);
        }
        out.push(values);
    }
    Ok(SqlRows { columns, rows: out, affected })
}

/// For a driver that shares our SQLite library: none does today, so it is only written, never the usual way.
pub(super) fn guard(style: Placeholders, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> GuardStatement {
    let mut params: Vec<Option<String>> = Vec::new();
    let mut mark = |value: Option<String>| {
        params.push(value);
        match style {
            Placeholders::Dollar => format!("${}", params.len()),
            Placeholders::Percent => "%s".to_string(),
            Placeholders::Named => format!(":p{}", params.len()),
            Placeholders::Question => "?".to_string(),
        }
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let int = |mark: &mut dyn FnMut(Option<String>) -> String, v: i64| format!("cast({} as integer)", mark(Some(v.to_string())));
    let run_mark = format!("unhex({})", mark(Some(hex(run.as_bytes()))));
    let at = [int(&mut mark, step.at.segment.into()), mark(Some(step.at.branch.to_string())), int(&mut mark, step.at.seq.into())];
    let mut values = vec![run_mark, at[0].clone(), at[1].clone(), at[2].clone(), "cast(unixepoch('subsec') * 1000000 as integer)".to_string()];
    values.push(int(&mut mark, step.site.id));
    values.push(format!("cast({} as integer)", mark(step.digest.map(|d| d.to_string()))));
    values.push(int(&mut mark, step.token));
    values.push(int(&mut mark, step.took_us));
    values.push(format!("unhex({})", mark(Some(hex(incarnation.as_bytes())))));
    for number in [step.done, step.seen, epoch, step.attempt, step.kind.into()] {
        values.push(int(&mut mark, number.into()));
    }
    values.push(i64::from(step.failed).to_string());
    values.push(int(&mut mark, step.output.codec.into()));
    values.push(mark(step.output.key_id.clone()));
    values.push(format!("unhex({})", mark(Some(hex(&step.output.data)))));
    let fence_run = format!("unhex({})", mark(Some(hex(run.as_bytes()))));
    let fence_owner = format!("unhex({})", mark(Some(hex(incarnation.as_bytes()))));
    let fence_epoch = int(&mut mark, epoch.into());
    let (running, cancelling) = (RunState::Running as i16, RunState::Cancelling as i16);
    let sql = format!(
        "insert into step(run_id, segment, branch, seq, at, site, digest, token, took_us, written_by, done, seen, epoch, attempt, kind, failed, codec, \
         key_id, output) select {} where exists (select 1 from run where id = {fence_run} and owner = {fence_owner} and epoch = {fence_epoch} \
         and state in ({running}, {cancelling})) on conflict (run_id, segment, branch, seq) do update set done = step.done \
         returning case when token = excluded.token then 'ok' else 'recorded' end",
        values.join(", ")
    );
    GuardStatement { sql, params }
}
