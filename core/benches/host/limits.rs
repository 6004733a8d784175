//! What PostgreSQL itself can do with the engine's own step row: the bare limit the engine is measured against. No engine, no fence, primary
//! key only, the client the engine uses.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use uuid::Uuid;

use crate::report::{Outcome, percentile};

const BATCH: usize = 200;
const OUTPUT: usize = 100;

/// The step table of migration 1, read from there so that it cannot drift.
fn table() -> Result<String, String> {
    let migration = include_str!("../../migrations/postgres/0001_init.sql");
    let from = migration.find("create table {schema}.step (").ok_or("migration 1 has no step table")?;
    let to = migration[from..].find(';').ok_or("the step table does not end")? + from;
    Ok(migration[from..to].replace("{schema}.step", "bench_step"))
}

const COLUMNS: &str =
    "run_id, at, site, digest, token, took_us, written_by, segment, seq, done, seen, epoch, attempt, kind, codec, failed, branch, key_id, output";

fn insert_batch() -> String {
    format!(
        "insert into bench_step ({COLUMNS}) \
         select run_id, statement_timestamp(), site, digest, token, took_us, $1, segment, seq, done, seen, epoch, attempt, kind, 1, false, branch, null, output \
         from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[], $8::int[], $9::int[], $10::int[], $11::int[], $12::smallint[], $13::smallint[], $14::text[], $15::bytea[]) \
         as u(run_id, site, digest, token, took_us, segment, seq, done, seen, epoch, attempt, kind, branch, output)"
    )
}

/// `BATCH` rows: ten steps of twenty runs.
#[derive(Default)]
struct Rows {
    runs: Vec<Uuid>,
    tokens: Vec<i64>,
    seqs: Vec<i32>,
}

impl Rows {
    fn refill(&mut self, count: usize, next_token: &mut i64) {
        self.runs.clear();
        self.tokens.clear();
        self.seqs.clear();
        let mut run = Uuid::now_v7();
        for row in 0..count {
            let seq = (row % 10) as i32;
            if seq == 0 {
                run = Uuid::now_v7();
            }
            *next_token += 1;
            self.runs.push(run);
            self.tokens.push(*next_token);
            self.seqs.push(seq);
        }
    }
}

struct Writer {
    connection: PgConnection,
    sql: String,
    worker: Uuid,
    rows: Rows,
    token: i64,
    constant: Constant,
}

/// What is the same in every batch is built once: the limit is the server's, not this client's.
struct Constant {
    longs: Vec<i64>,
    ints: Vec<i32>,
    shorts: Vec<i16>,
    branches: Vec<String>,
    outputs: Vec<Vec<u8>>,
}

impl Writer {
    async fn new(url: &str, count: usize, first_token: i64) -> Result<Writer, String> {
        let options: PgConnectOptions = url.parse().map_err(|e: sqlx::Error| e.to_string())?;
        let connection = options.disable_statement_logging().connect().await.map_err(|e| e.to_string())?;
        let constant = Constant {
            longs: vec![7; count],
            ints: vec![1; count],
            shorts: vec![1; count],
            branches: vec![String::new(); count],
            outputs: vec![vec![b'x'; OUTPUT]; count],
        };
        Ok(Writer { connection, sql: insert_batch(), worker: Uuid::now_v7(), rows: Rows::default(), token: first_token, constant })
    }

    async fn insert(&mut self, count: usize) -> Result<(), String> {
        self.rows.refill(count, &mut self.token);
        let c = &self.constant;
        let inserted = sqlx::query(AssertSqlSafe(self.sql.as_str()))
            .bind(self.worker)
            .bind(&self.rows.runs)
            .bind(&c.longs)
            .bind(&c.longs)
            .bind(&self.rows.tokens)
            .bind(&c.longs)
            .bind(&c.ints)
            .bind(&self.rows.seqs)
            .bind(&self.rows.seqs)
            .bind(&self.rows.seqs)
            .bind(&c.ints)
            .bind(&c.shorts)
            .bind(&c.shorts)
            .bind(&c.branches)
            .bind(&c.outputs)
            .execute(&mut self.connection)
            .await
            .map_err(|e| e.to_string())?;
        if inserted.rows_affected() != count as u64 {
            return Err(format!("{} of {count} rows inserted", inserted.rows_affected()));
        }
        Ok(())
    }
}

async fn prepare(url: &str) -> Result<(), String> {
    let mut connection = PgConnection::connect(url).await.map_err(|e| e.to_string())?;
    connection.execute("drop table if exists bench_step").await.map_err(|e| e.to_string())?;
    connection.execute(AssertSqlSafe(table()?)).await.map_err(|e| e.to_string())?;
    connection.close().await.map_err(|e| e.to_string())
}

/// Rows a second, two connections, batches of 200, one autocommit statement each.
pub(crate) async fn unnest(url: &str, seconds: f64) -> Result<Outcome, String> {
    prepare(url).await?;
    let lasts = Duration::from_secs_f64(seconds);
    let mut lanes = Vec::new();
    for lane in 0..2i64 {
        let mut writer = Writer::new(url, BATCH, lane << 40).await?;
        lanes.push(tokio::spawn(async move {
            for _ in 0..20 {
                writer.insert(BATCH).await?;
            }
            let began = Instant::now();
            let mut rows = 0;
            while began.elapsed() < lasts {
                writer.insert(BATCH).await?;
                rows += BATCH;
            }
            Ok::<f64, String>(rows as f64 / began.elapsed().as_secs_f64())
        }));
    }
    let mut rate = 0.0;
    for lane in lanes {
        rate += lane.await.map_err(|e| e.to_string())??;
    }
    Ok(Outcome::new().with("unnest_rows_per_s", rate))
}

/// One row, one autocommit, one connection: what a lone step cannot beat.
pub(crate) async fn commit(url: &str, rows: usize) -> Result<Outcome, String> {
    prepare(url).await?;
    let mut writer = Writer::new(url, 1, 0).await?;
    for _ in 0..50 {
        writer.insert(1).await?;
    }
    let mut took = Vec::with_capacity(rows);
    for _ in 0..rows {
        let began = Instant::now();
        writer.insert(1).await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Outcome::new().with("commit_p50_ms", percentile(&mut took, 0.5)))
}
