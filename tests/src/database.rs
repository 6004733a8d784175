//! The auditor's own view of a store: plain SQL on a connection of its own, written once for both stores.

use sqlx::{Connection, Row, TypeInfo};

/// A row with every value as text; NULL is None.
pub type Text = Vec<Option<String>>;

pub enum Database {
    Postgres { connection: sqlx::PgConnection, schema: String },
    Sqlite(sqlx::SqliteConnection),
}

impl Database {
    pub async fn open(url: &str, schema: &str) -> Result<Database, sqlx::Error> {
        if url.starts_with("sqlite:") {
            use std::str::FromStr;
            let options = sqlx::sqlite::SqliteConnectOptions::from_str(url)?.busy_timeout(std::time::Duration::from_secs(20));
            Ok(Database::Sqlite(sqlx::SqliteConnection::connect_with(&options).await?))
        } else {
            Ok(Database::Postgres { connection: sqlx::PgConnection::connect(url).await?, schema: schema.to_string() })
        }
    }

    /// Whether a SQLite file can be written to within a second.
    pub async fn is_free(url: &str) -> Result<bool, sqlx::Error> {
        use std::str::FromStr;
        let options = sqlx::sqlite::SqliteConnectOptions::from_str(url)?.busy_timeout(std::time::Duration::from_secs(1));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
        match sqlx::query("begin immediate").execute(&mut connection).await {
            Ok(_) => sqlx::query("rollback").execute(&mut connection).await.map(|_| true),
            Err(error) if error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == "5") => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self, Database::Postgres { .. })
    }

    /// `{s}` before a table of ours; `{id:column}` a uuid as 32 hex digits, `{key:digits}` the other way; `{us:column}` a time as microseconds; `{now}` the present as
    /// microseconds; `{hash:column}` bytes in a form that can be compared.
    fn expand(&self, sql: &str) -> String {
        let mut out = String::with_capacity(sql.len() + 64);
        let mut rest = sql;
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            let close = rest[open..].find('}').map_or(rest.len(), |c| open + c);
            let (verb, column) = rest[open + 1..close].split_once(':').unwrap_or((&rest[open + 1..close], ""));
            out.push_str(&match (verb, self) {
                ("s", Database::Postgres { schema, .. }) => format!("\"{schema}\"."),
                ("s", Database::Sqlite(_)) => String::new(),
                ("id", Database::Postgres { .. }) => format!("replace({column}::text, '-', '')"),
                ("id", Database::Sqlite(_)) => format!("lower(hex({column}))"),
                ("key", Database::Postgres { .. }) => format!("'{column}'::uuid"),
                ("key", Database::Sqlite(_)) => format!("x'{column}'"),
                ("us", Database::Postgres { .. }) => format!("(extract(epoch from {column}) * 1000000)::bigint"),
                ("us", Database::Sqlite(_)) => column.to_string(),
                ("now", Database::Postgres { .. }) => "(extract(epoch from clock_timestamp()) * 1000000)::bigint".into(),
                ("now", Database::Sqlite(_)) => "cast((julianday('now') - 2440587.5) * 86400000000 as integer)".into(),
                ("hash", Database::Postgres { .. }) => format!("md5(coalesce({column}, ''::bytea))"),
                ("hash", Database::Sqlite(_)) => format!("hex(coalesce({column}, x''))"),
                _ => format!("{{{verb}}}"),
            });
            rest = rest.get(close + 1..).unwrap_or("");
        }
        out.push_str(rest);
        out
    }

    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Text>, sqlx::Error> {
        let sql = self.expand(sql);
        let statement = sqlx::AssertSqlSafe(sql);
        match self {
            Database::Postgres { connection, .. } => {
                let rows = sqlx::raw_sql(statement).fetch_all(connection).await?;
                rows.iter().map(|row| (0..row.len()).map(|i| postgres_text(row, i)).collect()).collect()
            }
            Database::Sqlite(connection) => {
                let rows = sqlx::query(statement).persistent(false).fetch_all(connection).await?;
                rows.iter().map(|row| (0..row.len()).map(|i| sqlite_text(row, i)).collect()).collect()
            }
        }
    }

    pub async fn number(&mut self, sql: &str) -> Result<i64, sqlx::Error> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().and_then(|r| r.first()?.as_ref()?.parse().ok()).unwrap_or(0))
    }

    pub async fn execute(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let statement = sqlx::AssertSqlSafe(self.expand(sql));
        match self {
            Database::Postgres { connection, .. } => sqlx::raw_sql(statement).execute(connection).await.map(drop),
            Database::Sqlite(connection) => sqlx::raw_sql(statement).execute(connection).await.map(drop),
        }
    }
}

/// In the simple protocol every value comes as text, whatever its type.
fn postgres_text(row: &sqlx::postgres::PgRow, i: usize) -> Result<Option<String>, sqlx::Error> {
    use sqlx::ValueRef;
    let raw = row.try_get_raw(i)?;
    if raw.is_null() {
        return Ok(None);
    }
    raw.as_str().map(|text| Some(text.to_string())).map_err(sqlx::Error::Decode)
}

fn sqlite_text(row: &sqlx::sqlite::SqliteRow, i: usize) -> Result<Option<String>, sqlx::Error> {
    use sqlx::ValueRef;
    let kind = row.try_get_raw(i)?.type_info().name().to_string();
    Ok(match kind.as_str() {
        "NULL" => None,
        "INTEGER" | "BOOLEAN" => Some(row.try_get::<i64, _>(i)?.to_string()),
        "REAL" => Some(row.try_get::<f64, _>(i)?.to_string()),
        "BLOB" => Some(String::from_utf8_lossy(&row.try_get::<Vec<u8>, _>(i)?).into_owned()),
        _ => row.try_get::<Option<String>, _>(i)?,
    })
}
