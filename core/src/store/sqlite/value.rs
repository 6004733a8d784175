//! Values in and columns out. SQLite has four types; everything the store keeps is one of them.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use uuid::Uuid;

use super::connection::rejected;
use crate::store::{Payload, Result, SqlValue};

#[derive(Debug, Clone)]
pub(super) enum Val {
    Null,
    Int(i64),
    Real(f64),
    Text(Arc<str>),
    Blob(Vec<u8>),
}

impl Val {
    pub(super) fn add_to(self, arguments: &mut SqliteArguments) -> Result<()> {
        use sqlx::Arguments as _;
        match self {
            Val::Null => arguments.add(None::<i64>),
            Val::Int(v) => arguments.add(v),
            Val::Real(v) => arguments.add(v),
            Val::Text(v) => arguments.add(v),
            Val::Blob(v) => arguments.add(v),
        }
        .map_err(|e| rejected(e.to_string()))
    }
}

impl From<i64> for Val {
    fn from(v: i64) -> Self {
        Val::Int(v)
    }
}
impl From<i32> for Val {
    fn from(v: i32) -> Self {
        Val::Int(v.into())
    }
}
impl From<i16> for Val {
    fn from(v: i16) -> Self {
        Val::Int(v.into())
    }
}
impl From<bool> for Val {
    fn from(v: bool) -> Self {
        Val::Int(v.into())
    }
}
impl From<Uuid> for Val {
    fn from(v: Uuid) -> Self {
        Val::Blob(v.as_bytes().to_vec())
    }
}
impl From<&str> for Val {
    fn from(v: &str) -> Self {
        Val::Text(v.into())
    }
}
impl From<&String> for Val {
    fn from(v: &String) -> Self {
        Val::Text(v.as_str().into())
    }
}
impl From<String> for Val {
    fn from(v: String) -> Self {
        Val::Text(v.into())
    }
}
impl From<&Arc<str>> for Val {
    fn from(v: &Arc<str>) -> Self {
        Val::Text(v.clone())
    }
}
impl From<Vec<u8>> for Val {
    fn from(v: Vec<u8>) -> Self {
        Val::Blob(v)
    }
}
impl<T: Into<Val>> From<Option<T>> for Val {
    fn from(v: Option<T>) -> Self {
        v.map_or(Val::Null, Into::into)
    }
}

impl From<&SqlValue> for Val {
    fn from(v: &SqlValue) -> Self {
        match v {
            SqlValue::Null => Val::Null,
            SqlValue::Bool(v) => Val::Int((*v).into()),
            SqlValue::Int(v) => Val::Int(*v),
            SqlValue::Float(v) => Val::Real(*v),
            SqlValue::Text(v) => Val::Text(v.as_str().into()),
            SqlValue::Bytes(v) => Val::Blob(v.clone()),
        }
    }
}

/// The three columns of a payload: codec, key id, bytes. Codec 0 has no bytes, so none are written.
pub(super) fn payload_vals(payload: &Payload) -> [Val; 3] {
    let data = if payload.codec == 0 && payload.data.is_empty() { Val::Null } else { Val::Blob(payload.data.clone()) };
    [payload.codec.into(), payload.key_id.as_ref().into(), data]
}

macro_rules! vals {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::sqlite::value::Val::from($value)),*] };
}
pub(super) use vals;

/// Columns by number; the statements of this store name theirs in order.
pub(super) trait Columns {
    fn int(&self, column: usize) -> Result<i64>;
    fn opt_int(&self, column: usize) -> Result<Option<i64>>;
    fn uuid(&self, column: usize) -> Result<Uuid>;
    fn opt_uuid(&self, column: usize) -> Result<Option<Uuid>>;
    fn text(&self, column: usize) -> Result<String>;
    fn opt_text(&self, column: usize) -> Result<Option<String>>;
    fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>>;

    fn int32(&self, column: usize) -> Result<i32> {
        i32::try_from(self.int(column)?).map_err(|e| rejected(e.to_string()))
    }
    fn int16(&self, column: usize) -> Result<i16> {
        i16::try_from(self.int(column)?).map_err(|e| rejected(e.to_string()))
    }
    fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }
    /// Codec, key id and bytes in three columns from here on.
    fn payload(&self, column: usize) -> Result<Payload>;
}

impl Columns for SqliteRow {
    fn int(&self, column: usize) -> Result<i64> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn uuid(&self, column: usize) -> Result<Uuid> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn opt_uuid(&self, column: usize) -> Result<Option<Uuid>> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn text(&self, column: usize) -> Result<String> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn opt_text(&self, column: usize) -> Result<Option<String>> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        self.try_get_unchecked(column).map_err(decode)
    }
    fn payload(&self, column: usize) -> Result<Payload> {
        let data: Option<Vec<u8>> = self.try_get_unchecked(column + 2).map_err(decode)?;
        Ok(Payload { codec: self.int16(column)?, key_id: self.opt_text(column + 1)?, data: data.unwrap_or_default() })
    }
}

fn decode(e: sqlx::Error) -> crate::store::StoreError {
    rejected(format!("a stored value is not of its type: {e}"))
}
