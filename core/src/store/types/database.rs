//! The database itself: its schema, its identity, and statements in a user's own terms.

#[derive(Debug, Clone)]
pub struct SchemaState {
    /// None: our tables are not there.
    pub version: Option<i32>,
    pub min_compatible: i32,
    /// True when the database holds no tables at all outside system schemas.
    pub database_empty: bool,
}

#[derive(Debug, Clone)]
pub struct Identity {
    pub stored_environment: Option<String>,
    pub stored_identity: Option<String>,
    pub actual_identity: String,
}

/// Placeholder styles of the drivers a guard statement is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholders {
    /// $1, $2: asyncpg, pg, pgx.
    Dollar,
    /// %s: psycopg.
    Percent,
    /// :p1, :p2: SQLAlchemy `text()`.
    Named,
    /// ?: JDBC, SQLite.
    Question,
}

/// One statement for the user's own transaction; every parameter is text (or null) and is cast in SQL.
/// It returns one row with one text column: `ok`, `recorded`, `fenced` or `other_database`.
#[derive(Debug, Clone)]
pub struct GuardStatement {
    pub sql: String,
    pub params: Vec<Option<String>>,
}

/// A value a user's statement takes or returns on the engine's own connection.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}
