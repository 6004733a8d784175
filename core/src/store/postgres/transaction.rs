//! A user's transactional step on the engine's own connection.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{AssertSqlSafe, Column, Row, TypeInfo, ValueRef};
use uuid::Uuid;

use super::PostgresStore;
use super::connect::{Home, Session, Shared};
use super::guard::{self, Recorded};
use super::rows::read;
use super::sites::Sites;
use crate::store::user_sql::{NOT_YOURS, ends_transaction};
use crate::store::{Result, RunKey, Site, SqlRows, SqlValue, StepWrite, StoreError, StoreTransaction, Verdict};

pub(super) struct Transaction {
    session: Session,
    shared: Arc<Shared>,
    pool: Arc<Home>,
    sites: Arc<Sites>,
    /// The name that was written before it began.
    named: i64,
    /// The server has said no to a statement and accepted none since: but for a savepoint, all of it is void.
    aborted: bool,
}

/// The step swallowed the error of a statement and returned a result.
const ABORTED: &str = "A statement of this transaction failed and its error was not raised, so PostgreSQL has undone all of it. Let the error out of the step, \
    or put a statement that may fail behind a savepoint.";

/// A new name is written first, in a commit of its own: inside the transaction it would be rolled back with it, and once the transaction holds a row
/// that others wait for, all sessions of a pooler may be with those, so that there is no second one for the name.
pub(super) async fn begin(store: &PostgresStore, site: &Site) -> Result<Box<dyn StoreTransaction>> {
    name(&store.sites, &store.pool, &store.shared, site).await?;
    let mut session = store.user.session(&store.shared).await?;
    session.begin().await?;
    Ok(Box::new(Transaction { session, shared: store.shared.clone(), pool: store.pool.clone(), sites: store.sites.clone(), named: site.id, aborted: false }))
}

async fn name(sites: &Sites, pool: &Arc<Home>, shared: &Arc<Shared>, site: &Site) -> Result<()> {
    if !sites.remembers(shared, site) {
        let mut session = pool.session(shared).await?;
        sites.write_sites(&mut session, vec![site.clone()]).await?;
    }
    Ok(())
}

#[async_trait]
impl StoreTransaction for Transaction {
    async fn execute(&mut self, sql: &str, params: &[SqlValue]) -> Result<SqlRows> {
        if ends_transaction(sql) {
            return Err(StoreError::Rejected { sqlstate: "2D000".into(), message: NOT_YOURS.into() });
        }
        // The text is the user's own, run with the user's own rights: that is what a transactional step is.
        let mut statement = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for param in params {
            statement = match param {
                SqlValue::Null => statement.bind(Untyped),
                SqlValue::Bool(value) => statement.bind(*value),
                SqlValue::Int(value) => statement.bind(*value),
                SqlValue::Float(value) => statement.bind(*value),
                SqlValue::Text(value) => statement.bind(value.clone()),
                SqlValue::Bytes(value) => statement.bind(value.clone()),
            };
        }
        let answer = self.session.user_rows(statement).await;
        self.aborted = answer.is_err();
        let (rows, affected) = answer?;
        let columns = rows.first().map(|row| row.columns().iter().map(|column| column.name().to_string()).collect()).unwrap_or_default();
        let rows = rows.iter().map(values).collect::<Result<_>>()?;
        Ok(SqlRows { columns, rows, affected })
    }

    async fn commit(mut self: Box<Self>, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        if self.aborted {
            self.session.rollback().await;
            return Ok(Verdict::Refused { message: ABORTED.into() });
        }
        if step.site.id != self.named {
            name(&self.sites, &self.pool, &self.shared, &step.site).await?;
        }
        failpoint!("store.transaction.before");
        match guard::record(&mut self.session, &self.sites, incarnation, run, epoch, step).await {
            Ok(Recorded::New) => {
                self.session.commit().await?;
                failpoint!("store.transaction.after");
                Ok(Verdict::Committed)
            }
            Ok(Recorded::Verdict(verdict)) => {
                self.session.rollback().await;
                Ok(verdict)
            }
            Err(error) => {
                self.session.rollback().await;
                Err(error)
            }
        }
    }

    async fn rollback(mut self: Box<Self>) {
        self.session.rollback().await;
    }
}

/// A null whose type the server infers.
struct Untyped;

impl sqlx::Type<sqlx::Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(0))
    }
}

impl sqlx::Encode<'_, sqlx::Postgres> for Untyped {
    fn encode_by_ref(&self, _: &mut sqlx::postgres::PgArgumentBuffer) -> std::result::Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        Ok(sqlx::encode::IsNull::Yes)
    }
}

fn values(row: &PgRow) -> Result<Vec<SqlValue>> {
    (0..row.len())
        .map(|at| {
            let raw = read(row.try_get_raw(at))?;
            Ok(if raw.is_null() { SqlValue::Null } else { value(&raw) })
        })
        .collect()
}

fn value(raw: &PgValueRef<'_>) -> SqlValue {
    let bytes = raw.as_bytes().unwrap_or_default();
    let name = raw.type_info().name().to_uppercase();
    let text = || SqlValue::Text(String::from_utf8_lossy(bytes).into_owned());
    if raw.format() == PgValueFormat::Text {
        return text();
    }
    match (name.as_str(), bytes) {
        ("BOOL", [value]) => SqlValue::Bool(*value != 0),
        ("INT2", &[a, b]) => SqlValue::Int(i16::from_be_bytes([a, b]).into()),
        ("INT4" | "OID", &[a, b, c, d]) => SqlValue::Int(i32::from_be_bytes([a, b, c, d]).into()),
        ("FLOAT4", &[a, b, c, d]) => SqlValue::Float(f32::from_be_bytes([a, b, c, d]).into()),
        ("INT8", bytes) => long(bytes).map_or_else(text, SqlValue::Int),
        ("FLOAT8", bytes) => long(bytes).map_or_else(text, |bits| SqlValue::Float(f64::from_bits(bits as u64))),
        ("TEXT" | "VARCHAR" | "CHAR" | "NAME" | "JSON" | "UNKNOWN" | "CITEXT" | "\"CHAR\"", _) => text(),
        ("JSONB", [_, document @ ..]) => SqlValue::Text(String::from_utf8_lossy(document).into_owned()),
        ("UUID", bytes) => Uuid::from_slice(bytes).map_or_else(|_| SqlValue::Bytes(bytes.to_vec()), |id| SqlValue::Text(id.to_string())),
        ("NUMERIC", bytes) => super::numeric::text(bytes).map_or_else(|| SqlValue::Bytes(bytes.to_vec()), SqlValue::Text),
        ("TIMESTAMPTZ", bytes) => long(bytes).map_or_else(text, |us| SqlValue::Text(super::numeric::timestamp(us, true))),
        ("TIMESTAMP", bytes) => long(bytes).map_or_else(text, |us| SqlValue::Text(super::numeric::timestamp(us, false))),
        ("DATE", &[a, b, c, d]) => SqlValue::Text(super::numeric::date(i32::from_be_bytes([a, b, c, d]).into())),
        _ => SqlValue::Bytes(bytes.to_vec()),
    }
}

fn long(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}
