//! Migrations, the state of the schema, and which database this is.

use sqlx::{AssertSqlSafe, Row};

use super::PostgresStore;
use super::connect::Session;
use super::rows::read;
use crate::store::{Identity, Result, SchemaState, StoreError};

/// Released migrations are never edited; each is one text, applied in its own transaction together with its version.
const MIGRATIONS: &[(i32, &str)] = &[(1, include_str!("../../../migrations/postgres/0001_init.sql"))];

/// The version these migrations make, and the oldest library that may use it.
const VERSION: i32 = crate::store::SCHEMA_VERSION;
const MIN_COMPATIBLE: i32 = 1;

/// A schema name becomes part of statements, so it is checked first and quoted then.
pub(super) fn quoted(name: &str) -> Result<String> {
    let valid = !name.is_empty()
        && name.len() <= 63
        && name.bytes().enumerate().all(|(at, byte)| matches!(byte, b'a'..=b'z' | b'_') || (at > 0 && byte.is_ascii_digit()));
    if valid {
        Ok(format!("\"{name}\""))
    } else {
        Err(StoreError::Setup { code: "config_invalid", message: "The schema name must be of the form [a-z_][a-z0-9_]{0,62}.".into() })
    }
}

/// The migrations as text, to run by hand.
pub fn migration_sql(schema: &str) -> Result<String> {
    let quoted = quoted(schema)?;
    let mut text = format!("begin;\ncreate schema if not exists {quoted};\n");
    for (version, migration) in MIGRATIONS {
        text.push_str(&format!("\n-- migration {version}\n"));
        text.push_str(&migration.replace("{schema}", &quoted));
        text.push_str(&stamp(&quoted, *version));
    }
    text.push_str("commit;\n");
    Ok(text)
}

fn stamp(quoted: &str, version: i32) -> String {
    format!(
        "\ninsert into {quoted}.meta (key, value) values ('schema_version', '{version}'), ('min_compatible', '{MIN_COMPATIBLE}') \
         on conflict (key) do update set value = excluded.value;\n"
    )
}

const HAS_META: &str = "select to_regclass('{s}.meta') is not null";
const VERSIONS: &str = "select key, value from {s}.meta where key in ('schema_version', 'min_compatible')";
const EMPTY: &str = "\
select not exists (
  select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'm', 'f') and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%')";

async fn versions(session: &mut Session) -> Result<(Option<i32>, i32)> {
    let there = session.rows(session.q(HAS_META)).await?;
    if !there.first().map(|row| read(row.try_get::<bool, _>(0))).transpose()?.unwrap_or(false) {
        return Ok((None, 0));
    }
    let (mut version, mut min_compatible) = (None, None);
    for row in session.rows(session.q(VERSIONS)).await.map_err(|error| foreign(session, error))? {
        let text = |at| read(row.try_get::<String, _>(at)).map_err(|error| foreign(session, error));
        let (key, value) = (text(0)?, text(1)?);
        let number: i32 = value.parse().map_err(|_| StoreError::Setup {
            code: "schema_too_new",
            message: format!("meta.{key} is not a number this library understands. Upgrade this process."),
        })?;
        if key == "schema_version" { version = Some(number) } else { min_compatible = Some(number) }
    }
    match (version, min_compatible) {
        (Some(_), Some(min_compatible)) => Ok((version, min_compatible)),
        // Ours comes with both, in one transaction.
        _ => Err(not_ours(session)),
    }
}

/// Many a program has a table `meta`: with other columns, or with these of another type.
fn foreign(session: &Session, error: StoreError) -> StoreError {
    if matches!(error, StoreError::Rejected { .. }) { not_ours(session) } else { error }
}

fn not_ours(session: &Session) -> StoreError {
    let message = format!("Schema {} holds a table meta that is not Everstep's. Name another schema.", session.shared.schema);
    StoreError::Setup { code: "config_invalid", message }
}

pub(super) async fn inspect(store: &PostgresStore) -> Result<SchemaState> {
    let mut session = store.pool.session(&store.shared).await?;
    let (version, min_compatible) = versions(&mut session).await?;
    let rows = session.rows(session.q(EMPTY)).await?;
    let database_empty = rows.first().map(|row| read(row.try_get::<bool, _>(0))).transpose()?.unwrap_or(false);
    Ok(SchemaState { version, min_compatible, database_empty })
}

/// One transaction a migration, under a transaction-scoped lock: a second process waits, then finds the work done; a killed one leaves nothing.
pub(super) async fn migrate(store: &PostgresStore) -> Result<()> {
    let mut session = store.pool.session(&store.shared).await?;
    let (version, min_compatible) = versions(&mut session).await?;
    refuse_newer(min_compatible)?;
    if version.is_some_and(|version| version >= VERSION) {
        return Ok(());
    }
    for (number, text) in MIGRATIONS {
        session.begin().await?;
        match step(&mut session, *number, text).await {
            Ok(()) => {
                failpoint!("store.migrate.step");
                session.commit().await?;
            }
            Err(error) => {
                session.rollback().await;
                return Err(explain(error, *number, &store.shared.schema));
            }
        }
    }
    Ok(())
}

fn refuse_newer(min_compatible: i32) -> Result<()> {
    if min_compatible > VERSION {
        return Err(StoreError::Setup {
            code: "schema_too_new",
            message: format!("The schema needs a library that knows version {min_compatible}; this one knows {VERSION}. Upgrade this process."),
        });
    }
    Ok(())
}

async fn step(session: &mut Session, number: i32, text: &str) -> Result<()> {
    // Lock waits of a migration are for another migration: let it finish. The key is fixed by the schema name, and ends with the transaction.
    session.simple("SET LOCAL lock_timeout = '20s'".into()).await?;
    let lock = sqlx::query(AssertSqlSafe("select pg_advisory_xact_lock(hashtextextended('everstep:' || $1, 0))"))
        .persistent(false)
        .bind(session.shared.schema.clone());
    session.rows(lock).await?;
    let (version, min_compatible) = versions(session).await?;
    refuse_newer(min_compatible)?;
    if version.is_some_and(|version| version >= number) {
        return Ok(());
    }
    let schema = session.shared.schema.clone();
    if version.is_none() {
        let exists = sqlx::query(AssertSqlSafe("select exists (select 1 from pg_namespace where quote_ident(nspname) = $1 or '\"' || nspname || '\"' = $1)"))
            .persistent(false)
            .bind(schema.clone());
        let rows = session.rows(exists).await?;
        let there = rows.first().map(|row| read(row.try_get::<bool, _>(0))).transpose()?.unwrap_or(false);
        // IF NOT EXISTS would ask for the right to create schemas even where an operator has made this one.
        if !there {
            session.simple(format!("create schema {schema}")).await?;
        }
    }
    session.simple(text.replace("{schema}", &schema)).await?;
    session.simple(stamp(&schema, number)).await
}

fn explain(error: StoreError, number: i32, schema: &str) -> StoreError {
    match error {
        StoreError::Setup { code: "database_auth", message } if message.starts_with("The role lacks a right") => StoreError::Setup {
            code: "no_ddl_right",
            message: format!(
                "Migration {number} of schema {schema} is missing and this role may not apply it ({message}). \
                 Print it with migration_sql and run it as the owner."
            ),
        },
        other => other,
    }
}

const STORED: &str = "select key, value from {s}.meta where key in ('environment', 'identity')";
const SYSTEM: &str = "select system_identifier::text from pg_control_system()";
/// A physical copy keeps system identifier and oid but a restored dump changes both; the name is there for copies made with a template.
const DATABASE: &str = "select d.oid::text || '/' || d.datname from pg_database d where d.datname = current_database()";

pub(super) async fn identity(store: &PostgresStore) -> Result<Identity> {
    let mut session = store.pool.session(&store.shared).await?;
    let mut identity = Identity { stored_environment: None, stored_identity: None, actual_identity: actual(&mut session).await? };
    for row in session.rows(session.q(STORED)).await? {
        let (key, value): (String, String) = (read(row.try_get(0))?, read(row.try_get(1))?);
        if key == "environment" { identity.stored_environment = Some(value) } else { identity.stored_identity = Some(value) }
    }
    Ok(identity)
}

async fn actual(session: &mut Session) -> Result<String> {
    // pg_control_system may be withheld from the role: the database's own oid and name still tell most copies apart.
    let system = match session.rows(session.q(SYSTEM)).await {
        Ok(rows) => rows.first().map(|row| read(row.try_get::<String, _>(0))).transpose()?,
        Err(StoreError::Setup { code: "database_auth", .. }) => None,
        Err(error) => return Err(error),
    };
    let rows = session.rows(session.q(DATABASE)).await?;
    let database = rows.first().map(|row| read(row.try_get::<String, _>(0))).transpose()?.unwrap_or_default();
    Ok(format!("{}/{database}", system.unwrap_or_default()))
}

const ADOPT: &str = "\
insert into {s}.meta (key, value) values ('environment', $1), ('identity', $2) on conflict (key) do update set value = excluded.value";

pub(super) async fn adopt(store: &PostgresStore, environment: &str) -> Result<()> {
    let mut session = store.pool.session(&store.shared).await?;
    let actual = actual(&mut session).await?;
    session.run(session.q(ADOPT).bind(environment).bind(actual)).await.map(|_| ())
}
