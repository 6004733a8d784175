//! One open connection: its statements, and what its errors mean.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Either, Executor as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::value::Val;
use crate::store::{FollowUp, Result, StoreError};

/// How long BEGIN IMMEDIATE waits for another process: longer than the longest transaction of a user (5 s).
pub(super) const BUSY_FOR: Duration = Duration::from_secs(8);
/// Rows of one statement. Few sizes, so that the statement cache stays small; large ones, because each statement is a trip to the
/// connection's thread and back, and on a busy machine that costs more than the rows.
const ROWS: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];
/// Keys of one `in (..)`, filled up by saying the last one again.
const KEYS: [usize; 5] = [1, 4, 16, 64, 256];

/// Where the database is.
#[derive(Debug, Clone)]
pub(super) enum Location {
    File(PathBuf),
    Memory,
}

/// An open connection with its statement texts.
pub(super) struct Connection {
    sql: SqliteConnection,
    texts: HashMap<(&'static str, usize), Arc<str>>,
    /// A BEGIN was sent and no COMMIT or ROLLBACK was heard of: a dropped future left it so.
    pub(super) open: bool,
    /// A deadline of a user's transaction is set.
    pub(super) limited: bool,
    /// Its thread has ended, or its file is gone: to be opened anew.
    pub(super) broken: bool,
    pub(super) follow_up: FollowUp,
    /// The last `ord` given out: keeps first in, first out within one microsecond.
    last_ord: i64,
}

impl Connection {
    pub(super) async fn connect(location: &Location, busy: Duration, follow_up: FollowUp) -> Result<Self> {
        let options = match location {
            Location::File(path) => SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                // A checkpoint flushes log and database: once in 16 MB, not once in 4.
                .pragma("wal_autocheckpoint", "4000")
                .pragma("journal_size_limit", "67108864"),
            Location::Memory => SqliteConnectOptions::new().in_memory(true).filename(":memory:"),
        }
        .foreign_keys(false)
        .busy_timeout(busy)
        .statement_cache_capacity(400)
        .row_buffer_size(512)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-8000")
        .thread_name(|id| format!("everstep-sqlite-{id}"))
        .disable_statement_logging();
        let until = Instant::now() + BUSY_FOR;
        loop {
            match options.connect().await {
                Ok(sql) => return Ok(Connection { sql, texts: HashMap::new(), open: false, limited: false, broken: false, follow_up, last_ord: 0 }),
                // Two processes that turn a new file to WAL at once: one of them is told busy, whatever its timeout.
                Err(e) if Instant::now() < until && matches!(classify(&e), StoreError::Conflict(_)) => pause(1).await,
                Err(e) => {
                    return Err(match classify(&e) {
                        conflict @ StoreError::Conflict(_) => conflict,
                        // What cannot be opened at all is for a person: a missing directory, no right, not a database.
                        other => StoreError::Setup {
                            code: if is_read_only(&e) { "database_read_only" } else { "database_unreachable" },
                            message: match location {
                                Location::File(path) => format!(
                                    "The SQLite file {} cannot be opened: {other}. Check the path, its directory and the rights on both.",
                                    path.display()
                                ),
                                Location::Memory => format!("No SQLite database in memory: {other}"),
                            },
                        },
                    });
                }
            }
        }
    }

    /// A statement text for `n` rows or keys: `{list}` becomes `?,?`, `{rows}` becomes `(?,..),(?,..)` of `width` each.
    fn text(&mut self, template: &'static str, width: usize, n: usize) -> Arc<str> {
        self.texts
            .entry((template, n))
            .or_insert_with(|| {
                let row = format!("({})", vec!["?"; width].join(","));
                template.replace("{list}", &vec!["?"; n].join(",")).replace("{rows}", &vec![row; n].join(",")).into()
            })
            .clone()
    }

    async fn run(&mut self, sql: impl sqlx::SqlSafeStr, args: Vec<Val>) -> Result<(u64, Vec<SqliteRow>)> {
        let sql = sql.into_sql_str();
        #[cfg(test)]
        super::plans::saw(sql.as_str());
        let mut arguments = SqliteArguments::default();
        for value in args {
            value.add_to(&mut arguments)?;
        }
        let mut rows = Vec::new();
        let mut affected = 0;
        let mut results = self.sql.fetch_many(sqlx::query_with(sql, arguments));
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(done))) => affected += done.rows_affected(),
                Ok(Some(Either::Right(row))) => rows.push(row),
                Ok(None) => return Ok((affected, rows)),
                Err(e) => {
                    drop(results);
                    let e = classify(&e);
                    self.broken |= matches!(e, StoreError::Unavailable(_));
                    return Err(e);
                }
            }
        }
    }

    pub(super) async fn exec(&mut self, sql: &'static str, args: Vec<Val>) -> Result<u64> {
        Ok(self.run(sql, args).await?.0)
    }

    pub(super) async fn fetch(&mut self, sql: &'static str, args: Vec<Val>) -> Result<Vec<SqliteRow>> {
        Ok(self.run(sql, args).await?.1)
    }

    pub(super) async fn fetch_one(&mut self, sql: &'static str, args: Vec<Val>) -> Result<Option<SqliteRow>> {
        Ok(self.run(sql, args).await?.1.into_iter().next())
    }

    /// A text made at run time: a user's statement, a filter.
    pub(super) async fn dynamic(&mut self, sql: String, args: Vec<Val>) -> Result<(u64, Vec<SqliteRow>)> {
        self.run(AssertSqlSafe(sql), args).await
    }

    /// A script of several statements, unprepared.
    pub(super) async fn script(&mut self, sql: &'static str) -> Result<()> {
        self.sql.execute(sqlx::raw_sql(sql)).await.map(drop).map_err(|e| classify(&e))
    }

    /// `template` holds `{rows}`; `rows` are the values of all rows, `width` each. Returns the rows affected.
    pub(super) async fn write_rows(&mut self, template: &'static str, width: usize, rows: Vec<Val>) -> Result<u64> {
        debug_assert_eq!(rows.len() % width, 0, "{template}");
        let mut left = rows.len() / width;
        let mut rows = rows.into_iter();
        let mut affected = 0;
        while left > 0 {
            let n = ROWS.into_iter().find(|n| *n <= left).unwrap_or(1);
            let sql = self.text(template, width, n);
            let (done, _) = self.run(AssertSqlSafe(sql), rows.by_ref().take(n * width).collect()).await?;
            affected += done;
            left -= n;
        }
        Ok(affected)
    }

    /// As `write_rows`, with `before` bound ahead of the rows, for statements that read or return rows.
    pub(super) async fn fetch_rows(&mut self, template: &'static str, width: usize, before: &[Val], rows: Vec<Val>) -> Result<Vec<SqliteRow>> {
        debug_assert_eq!(rows.len() % width, 0, "{template}");
        let mut left = rows.len() / width;
        let mut rows = rows.into_iter();
        let mut found = Vec::new();
        while left > 0 {
            let n = ROWS.into_iter().find(|n| *n <= left).unwrap_or(1);
            let sql = self.text(template, width, n);
            let mut args = before.to_vec();
            args.extend(rows.by_ref().take(n * width));
            found.extend(self.run(AssertSqlSafe(sql), args).await?.1);
            left -= n;
        }
        Ok(found)
    }

    /// `template` holds `{list}` of keys, after the parameters in `before`. Must not mind a key said twice.
    async fn run_keys(&mut self, template: &'static str, before: &[Val], keys: impl IntoIterator<Item = Uuid>) -> Result<(u64, Vec<SqliteRow>)> {
        let keys: Vec<Uuid> = keys.into_iter().collect();
        let (mut affected, mut found) = (0, Vec::new());
        for chunk in keys.chunks(KEYS[KEYS.len() - 1]) {
            let n = KEYS.into_iter().find(|n| *n >= chunk.len()).unwrap_or(chunk.len());
            let sql = self.text(template, 1, n);
            let mut args = Vec::with_capacity(before.len() + n);
            args.extend_from_slice(before);
            args.extend(chunk.iter().chain(std::iter::repeat_n(&chunk[chunk.len() - 1], n - chunk.len())).map(|key| Val::from(*key)));
            let (done, rows) = self.run(AssertSqlSafe(sql), args).await?;
            affected += done;
            found.extend(rows);
        }
        Ok((affected, found))
    }

    pub(super) async fn fetch_keys(&mut self, template: &'static str, before: &[Val], keys: impl IntoIterator<Item = Uuid>) -> Result<Vec<SqliteRow>> {
        Ok(self.run_keys(template, before, keys).await?.1)
    }

    pub(super) async fn exec_keys(&mut self, template: &'static str, before: &[Val], keys: impl IntoIterator<Item = Uuid>) -> Result<u64> {
        Ok(self.run_keys(template, before, keys).await?.0)
    }

    /// Statements that run past this are broken off, also in the middle of one.
    pub(super) async fn set_deadline(&mut self, until: Option<Instant>) -> Result<()> {
        // Said before it is so: a future dropped here must not leave a deadline behind unseen.
        self.limited = true;
        let mut handle = self.sql.lock_handle().await.map_err(|e| classify(&e))?;
        match until {
            Some(until) => handle.set_progress_handler(10_000, move || Instant::now() < until),
            None => {
                handle.remove_progress_handler();
                drop(handle);
                self.limited = false;
            }
        }
        Ok(())
    }

    /// Microseconds, never the same twice on this connection: the order of arrival in `ready`.
    pub(super) fn next_ord(&mut self, now: i64) -> i64 {
        self.last_ord = now.max(self.last_ord + 1);
        self.last_ord
    }

    pub(super) async fn begin(&mut self, how: &'static str) -> Result<()> {
        self.open = true;
        let begun = self.exec(how, Vec::new()).await;
        if begun.is_err() {
            self.open = false;
        }
        begun.map(drop)
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        self.exec("commit", Vec::new()).await?;
        self.open = false;
        Ok(())
    }

    pub(super) async fn rollback(&mut self) -> Result<()> {
        match self.exec("rollback", Vec::new()).await {
            // The statement that failed may have rolled back by itself (disk full, I/O error): then there is nothing left to do.
            Ok(_) | Err(StoreError::Rejected { .. }) => {
                self.open = false;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

impl Connection {
    pub(super) async fn close(self) {
        if let Err(e) = self.sql.close().await {
            // Nothing depends on it: every commit was answered, and the next opener recovers the log.
            drop(e);
        }
    }
}

/// Short at first: the gap between two batches of a busy writer is a tenth of a millisecond, and a waiter that looks seldom never meets it.
pub(super) async fn pause(tries: u32) {
    let most: u64 = if tries < 400 { 1_500 } else { 8_000 };
    let jitter = Uuid::new_v4().as_u64_pair().0 % most;
    tokio::time::sleep(Duration::from_micros(200 + jitter)).await;
}

pub(super) fn rejected(message: String) -> StoreError {
    StoreError::Rejected { sqlstate: String::new(), message }
}

/// Extended result code of a unique or primary key violation, as `Rejected.sqlstate` carries it.
pub(super) fn is_duplicate(error: &StoreError) -> bool {
    matches!(error, StoreError::Rejected { sqlstate, .. } if sqlstate == "1555" || sqlstate == "2067")
}

fn code(error: &sqlx::Error) -> Option<i32> {
    match error {
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse().ok()),
        _ => None,
    }
}

fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|c| c & 0xff == 8)
}

/// What an error of the library means for the engine. Result codes: https://www.sqlite.org/rescode.html
pub(super) fn classify(error: &sqlx::Error) -> StoreError {
    let Some(code) = code(error) else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::InvalidArgument(_) => rejected(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        };
    };
    let message = error.to_string();
    match code & 0xff {
        // BUSY, LOCKED
        5 | 6 => StoreError::Conflict(message),
        // READONLY
        8 => StoreError::Setup {
            code: "database_read_only",
            message: format!("The SQLite file cannot be written: {message}. Check the rights on the file and its directory."),
        },
        // CORRUPT, NOTADB
        11 | 26 => StoreError::Setup {
            code: "database_unreachable",
            message: format!("The file is not a sound SQLite database: {}. Restore it from a copy.", message.trim_end_matches('.')),
        },
        // ERROR, PERM, TOOBIG, CONSTRAINT, MISMATCH, AUTH, RANGE
        1 | 3 | 18 | 19 | 20 | 23 | 25 => StoreError::Rejected { sqlstate: code.to_string(), message },
        // NOMEM, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL and what is new: the disk or the machine.
        _ => StoreError::Unavailable(message),
    }
}
