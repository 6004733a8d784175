//! What an error of the driver means to the engine, and whether the connection can still be trusted.

use std::time::Duration;

use crate::store::StoreError;

pub(super) struct Fault {
    pub(super) error: StoreError,
    pub(super) connection_usable: bool,
}

/// Completed with its name where the connection is made.
pub(super) const NO_DATABASE: &str = "There is no database";
pub(super) const REFUSED: &str = "The database refused the user or password.";

pub(super) fn timed_out(after: Duration) -> StoreError {
    StoreError::Unavailable(format!("no answer within {} ms", after.as_millis()))
}

/// Messages of the server name columns and constraints; a bound value shows in few of them, so they are cut short.
fn cut(message: &str) -> String {
    message.chars().take(200).collect()
}

pub(super) fn classify(error: sqlx::Error) -> Fault {
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::Io(error) => return broken(StoreError::Unavailable(format!("connection: {}", error.kind()))),
        sqlx::Error::Tls(error) => return broken(StoreError::Unavailable(format!("TLS: {}", cut(&error.to_string())))),
        // The text of a configuration error may repeat the URL.
        sqlx::Error::Configuration(_) => {
            return broken(StoreError::Setup { code: "config_invalid", message: "The database URL or its TLS settings are not usable.".into() });
        }
        sqlx::Error::Encode(error) => {
            return Fault { error: StoreError::Rejected { sqlstate: "22000".into(), message: cut(&error.to_string()) }, connection_usable: true };
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
            return broken(StoreError::Rejected { sqlstate: "XX000".into(), message: format!("cannot read a row: {}", cut(&error.to_string())) });
        }
        other => return broken(StoreError::Unavailable(format!("connection: {}", cut(&other.to_string())))),
    };
    let sqlstate = database.code().unwrap_or_default().to_string();
    let message = cut(database.message());
    let text = format!("{message} ({sqlstate})");
    match sqlstate.as_str() {
        "40001" | "40P01" | "55P03" => usable(StoreError::Conflict(text)),
        // A plan or prepared name that does not fit this session any more: a new one will.
        "0A000" | "26000" | "42P05" | "25P02" | "25P03" | "25006" => broken(StoreError::Unavailable(text)),
        "57014" => usable(StoreError::Configured(text)),
        "28000" | "28P01" => broken(StoreError::Setup { code: "database_auth", message: format!("{REFUSED} Check the credentials of the URL.") }),
        "3D000" => broken(StoreError::Setup { code: "config_invalid", message: NO_DATABASE.into() }),
        "42501" => usable(StoreError::Setup { code: "database_auth", message: format!("The role lacks a right: {message}") }),
        "42P01" | "3F000" => {
            usable(StoreError::Setup { code: "migration_needed", message: format!("The engine's tables are not there ({message}). Run the migration.") })
        }
        state if ["08", "53", "57P", "58"].iter().any(|class| state.starts_with(class)) => broken(StoreError::Unavailable(text)),
        _ => usable(StoreError::Rejected { sqlstate, message }),
    }
}

fn broken(error: StoreError) -> Fault {
    Fault { error, connection_usable: false }
}

fn usable(error: StoreError) -> Fault {
    Fault { error, connection_usable: true }
}

/// A key that was taken already: what a plain insert says where `on conflict` would have said nothing.
pub(super) fn is_duplicate(error: &StoreError) -> bool {
    matches!(error, StoreError::Rejected { sqlstate, .. } if sqlstate == "23505")
}

/// One bad value: the row is at fault, not the batch.
pub(super) fn is_poison(error: &StoreError) -> bool {
    matches!(error, StoreError::Rejected { sqlstate, .. } if ["22", "23", "54"].iter().any(|class| sqlstate.starts_with(class)))
}

/// Of a statement the user wrote: only what says "again" keeps its kind; the rest is the user's to read, with the server's own words.
pub(super) fn classify_user(error: sqlx::Error) -> Fault {
    let own = match &error {
        sqlx::Error::Database(database) => {
            let sqlstate = database.code().unwrap_or_default().to_string();
            let again = ["40", "08", "53", "57P", "58"].iter().any(|class| sqlstate.starts_with(class)) || sqlstate == "25006" || sqlstate == "55P03";
            (!again).then(|| StoreError::Rejected { sqlstate, message: cut(database.message()) })
        }
        _ => None,
    };
    own.map_or_else(|| classify(error), usable)
}
