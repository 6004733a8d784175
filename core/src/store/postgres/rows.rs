//! Between rows and domain types.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::errors::classify;
use crate::store::{Due, Payload, Result, RunState, StoreError};

pub(super) fn read<T>(value: sqlx::Result<T>) -> Result<T> {
    value.map_err(|error| classify(error).error)
}

pub(super) fn state(code: i16) -> Result<RunState> {
    RunState::from_code(code).ok_or_else(|| StoreError::Setup {
        code: "newer_engine_needed",
        message: format!("A run is in state {code}, which this library does not know. Upgrade this process."),
    })
}

/// Columns (codec, key_id, data) from `at` on.
pub(super) fn payload(row: &PgRow, at: usize) -> Result<Payload> {
    let data: Option<Vec<u8>> = read(row.try_get(at + 2))?;
    Ok(Payload { codec: read(row.try_get(at))?, key_id: read(row.try_get(at + 1))?, data: data.unwrap_or_default() })
}

/// The bytes a row keeps of a payload: none when there is no value at all.
pub(super) fn data(payload: &Payload) -> Option<&[u8]> {
    (payload.codec != 0).then_some(payload.data.as_slice())
}

/// A due time as the two columns the statements take: milliseconds from now, or microseconds since the epoch.
pub(super) fn due(due: Option<Due>) -> (Option<i64>, Option<i64>) {
    match due {
        None => (None, None),
        Some(Due::After(ms)) => (Some(ms), None),
        Some(Due::At(us)) => (None, Some(us)),
    }
}

pub(super) fn column<R, T>(rows: &[R], of: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// A column that has its usual value in most batches: none at all then, and the statement puts it in.
pub(super) fn unless<R, T: PartialEq>(rows: &[R], usual: T, of: impl Fn(&R) -> T) -> Option<Vec<T>> {
    rows.iter().any(|row| of(row) != usual).then(|| column(rows, of))
}

/// SMALLINT columns hold small counters; one that outgrew them stays at the top.
pub(super) fn small(value: i32) -> i16 {
    value.clamp(i16::MIN as i32, i16::MAX as i32) as i16
}
