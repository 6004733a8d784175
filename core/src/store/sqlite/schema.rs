//! The schema, and whose database this is.

use std::path::Path;

use super::SqliteStore;
use super::connection::{Connection, Location};
use super::value::{Columns as _, vals};
use crate::store::{Identity, Result, SCHEMA_VERSION as VERSION, SchemaState, StoreError};

/// What a library must know to use a database of this one.
const MIN_COMPATIBLE: i32 = 1;
const INIT: &str = include_str!("../../../migrations/sqlite/0001_init.sql");

/// The migrations as text, to run by hand.
pub fn migration_sql() -> String {
    format!("begin immediate;\n{INIT}\ninsert into meta(key, value) values ('schema_version', '{VERSION}'), ('min_compatible', '{MIN_COMPATIBLE}');\ncommit;\n")
}

impl SqliteStore {
    pub(super) async fn look_at_schema(&self) -> Result<SchemaState> {
        self.refuse_network()?;
        // A transaction that writes, rolled back: the file, its directory and its log can be written, now.
        let mut tx = self.write().await?;
        let state = schema_state(&mut tx).await;
        tx.roll_back().await?;
        state
    }

    pub(super) async fn migrate_schema(&self) -> Result<()> {
        self.refuse_network()?;
        let mut tx = self.write().await?;
        let outcome = async {
            let state = schema_state(&mut tx).await?;
            match state.version {
                None => {
                    // All of it in this one transaction: killed anywhere, nothing of it is there.
                    tx.script(INIT).await?;
                    crate::failpoint!("store.migrate.step");
                    let sql = "insert into meta(key, value) values ('schema_version', ?), ('min_compatible', ?)";
                    tx.exec(sql, vals![VERSION.to_string(), MIN_COMPATIBLE.to_string()]).await.map(drop)
                }
                Some(_) if state.min_compatible > VERSION => Err(StoreError::Setup {
                    code: "schema_too_new",
                    message: format!(
                        "The database's schema needs a library that knows schema {}; this one knows {VERSION}. Upgrade this process.",
                        state.min_compatible
                    ),
                }),
                Some(_) => Ok(()),
            }
        }
        .await;
        tx.finish(outcome).await
    }

    pub(super) async fn whose(&self) -> Result<Identity> {
        let actual = self.actual_identity()?;
        let mut conn = self.read().await?;
        let (stored_environment, stored_identity) = (meta(&mut conn, "environment").await?, meta(&mut conn, "identity").await?);
        // Moved, or restored in its place: one of the two still is as it was, and it is the same database. A copy has neither.
        let actual_identity = match &stored_identity {
            Some(stored) if same_database(stored, &actual) => stored.clone(),
            _ => actual,
        };
        Ok(Identity { stored_environment, stored_identity, actual_identity })
    }

    pub(super) async fn stamp(&self, environment: &str) -> Result<()> {
        let actual = self.actual_identity()?;
        let mut tx = self.write().await?;
        let sql = "insert or replace into meta(key, value) values ('environment', ?), ('identity', ?)";
        let outcome = tx.exec(sql, vals![environment, actual]).await;
        tx.finish(outcome).await.map(drop)
    }

    /// `device:inode path`. Looked up by name only: opening the file beside SQLite would cost SQLite its locks at the close.
    fn actual_identity(&self) -> Result<String> {
        let Location::File(path) = &self.location else { return Ok(format!("memory {}", self.instance)) };
        let failed = |e: std::io::Error| StoreError::Unavailable(format!("the database file: {e}"));
        let path = std::fs::canonicalize(path).map_err(failed)?;
        let (device, inode) = device_and_inode(&path).map_err(failed)?;
        Ok(format!("{device}:{inode} {}", path.display()))
    }

    /// SQLite's locks and shared memory need one kernel under all who open the file.
    fn refuse_network(&self) -> Result<()> {
        let Location::File(path) = &self.location else { return Ok(()) };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        match network_file_system(directory) {
            Some(name) => Err(StoreError::Setup {
                code: "config_invalid",
                message: format!(
                    "The SQLite file is on a network file system ({name}), where its locks do not hold. Put it on a local disk, or use PostgreSQL."
                ),
            }),
            None => Ok(()),
        }
    }
}

fn same_database(stored: &str, actual: &str) -> bool {
    match (stored.split_once(' '), actual.split_once(' ')) {
        (Some((file, path)), Some((actual_file, actual_path))) => file == actual_file || path == actual_path,
        _ => stored == actual,
    }
}

#[cfg(unix)]
fn device_and_inode(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn device_and_inode(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|_| (0, 0))
}

#[cfg(target_os = "linux")]
fn network_file_system(directory: &Path) -> Option<&'static str> {
    // Not to be told is not to be on one: what is wrong with the directory shows when the file is opened.
    let kind = rustix::fs::statfs(directory).ok()?.f_type as u64 & 0xffff_ffff;
    match kind {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f => Some("AFS"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_directory: &Path) -> Option<&'static str> {
    None
}

async fn schema_state(conn: &mut Connection) -> Result<SchemaState> {
    let sql = "select exists(select 1 from sqlite_master where type = 'table' and name = 'meta'), \
               exists(select 1 from sqlite_master where type = 'table' and name not like 'sqlite\\_%' escape '\\')";
    let (ours, any) = match conn.fetch_one(sql, Vec::new()).await? {
        Some(row) => (row.flag(0)?, row.flag(1)?),
        None => (false, false),
    };
    if !ours {
        return Ok(SchemaState { version: None, min_compatible: 0, database_empty: !any });
    }
    let number = |text: Option<String>| text.and_then(|t| t.parse::<i32>().ok());
    let mut numbers = [None, None];
    for (number_of, key) in numbers.iter_mut().zip(["schema_version", "min_compatible"]) {
        *number_of = match meta(conn, key).await {
            Ok(text) => number(text),
            // Many a program has a table `meta`: with other columns,
            Err(StoreError::Rejected { .. }) => None,
            Err(other) => return Err(other),
        };
    }
    match numbers {
        [version @ Some(_), Some(min_compatible)] => Ok(SchemaState { version, min_compatible, database_empty: false }),
        // .. or with these. Ours comes with both numbers, in one transaction.
        _ => {
            let message = "This file holds a table meta that is not Everstep's. Name another file.".into();
            Err(StoreError::Setup { code: "config_invalid", message })
        }
    }
}

async fn meta(conn: &mut Connection, key: &str) -> Result<Option<String>> {
    let row = conn.fetch_one("select value from meta where key = ?", vals![key]).await?;
    row.map(|row| row.text(0)).transpose()
}
