//! Configuration, resolved in one place for all languages: the JSON of `open`, then the environment, then defaults (`core/docs/protocol.md`).

use serde::Deserialize;

use super::error::{EngineError, Result};
use crate::protocol::errors::Code;
use crate::store::StoreConfig;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Starts, inspects and controls; runs nothing, holds no lease.
    Client,
    /// As a client; reserved for hosts that also register workflows to have their names checked.
    Starter,
    Worker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    Normal,
    /// Release at every wait and replay before every step: the surprise comes in development.
    Always,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Raw {
    database: Option<String>,
    schema: Option<String>,
    namespace: Option<String>,
    environment: Option<String>,
    version: Option<String>,
    language: Option<String>,
    role: Option<Role>,
    queues: Option<Vec<String>>,
    slots: Option<i64>,
    lanes: Option<usize>,
    pool: Option<i64>,
    lease_ms: Option<i64>,
    beat_ms: Option<i64>,
    max_parked: Option<usize>,
    release_after_ms: Option<i64>,
    history_bytes: Option<usize>,
    max_payload: Option<usize>,
    outage_budget_ms: Option<u64>,
    cancel_grace_ms: Option<i64>,
    max_crashes: Option<i32>,
    auto_migrate: Option<bool>,
    replay: Option<Replay>,
    allow_async_commit: Option<bool>,
    pooler: Option<bool>,
    statement_timeout_ms: Option<i64>,
}

/// Resolved settings. Not `Debug`: `store.url` holds a password.
#[derive(Clone)]
pub struct Config {
    pub store: StoreConfig,
    pub environment: String,
    pub version: String,
    pub language: String,
    pub role: Role,
    /// None: every queue.
    pub queues: Option<Vec<String>>,
    pub slots: i64,
    pub lease_ms: i64,
    pub beat_ms: i64,
    pub max_parked: usize,
    pub release_after_ms: i64,
    pub history_bytes: usize,
    pub max_payload: usize,
    pub outage_budget_ms: u64,
    pub cancel_grace_ms: i64,
    pub max_crashes: i32,
    pub auto_migrate: Option<bool>,
    pub replay: Replay,
    /// Set when the default file is used because nothing was configured: said once at launch.
    pub default_file: bool,
}

/// A day. What is longer was meant in another unit, and PostgreSQL takes no longer timeout than 24 of them.
const LONGEST_MS: i64 = 86_400_000;
const MOST_CONNECTIONS: i64 = 10_000;

impl Config {
    /// `env` looks environment variables up: passed in, so that tests need not touch the process's own.
    pub fn resolve(json: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
        let raw: Raw = super::options::from_json("configuration", json)?;
        let set = |name: &str| env(name).filter(|v| !v.is_empty());
        let (url, default_file) = match raw.database.or_else(|| set("EVERSTEP_DATABASE_URL")) {
            Some(url) => (as_url(url)?, false),
            None if production(&set) => return Err(EngineError::plain(Code::NoDatabase)),
            None => ("sqlite:everstep.db".to_owned(), true),
        };
        let schema = raw.schema.unwrap_or_else(|| "everstep".into());
        if !valid_identifier(&schema) || schema.starts_with("pg_") {
            return Err(invalid("schema", "match [a-z_][a-z0-9_]{0,62} and not begin with pg_"));
        }
        let namespace = raw.namespace.unwrap_or_else(|| "default".into());
        super::identity::check_name("namespace", &namespace)?;
        let environment = raw.environment.or_else(|| set("EVERSTEP_ENV")).unwrap_or_else(|| "development".into());
        super::identity::check_name("environment", &environment)?;
        for queue in raw.queues.iter().flatten() {
            super::identity::check_name("the name of a queue to serve", queue)?;
        }
        // No version is the same as an empty one.
        let version = raw.version.unwrap_or_default();
        if !version.is_empty() {
            super::identity::check_name("version", &version)?;
        }
        let lease_ms = between("lease_ms", raw.lease_ms.unwrap_or(10_000), 1, LONGEST_MS)?;
        let beat_ms = positive("beat_ms", raw.beat_ms.unwrap_or((lease_ms * 3 / 10).max(1)))?;
        if beat_ms > lease_ms / 2 {
            return Err(invalid("beat_ms", "be at most half of lease_ms"));
        }
        let statement_timeout_ms = between("statement_timeout_ms", raw.statement_timeout_ms.unwrap_or(15_000), 1, LONGEST_MS)?;
        let lanes = raw.lanes.unwrap_or(2);
        if !(1..=8).contains(&lanes) {
            return Err(invalid("lanes", "be 1 to 8"));
        }
        Ok(Config {
            store: StoreConfig {
                url,
                schema,
                namespace,
                lanes,
                pool: between("pool", raw.pool.unwrap_or(4), 1, MOST_CONNECTIONS)? as usize,
                pooler: raw.pooler,
                statement_timeout_ms: statement_timeout_ms as u64,
                // One that gets no answer, and the next, fit between a beat and the end of the lease.
                beat_timeout_ms: statement_timeout_ms.min((lease_ms - beat_ms) / 2) as u64,
                allow_async_commit: raw.allow_async_commit.unwrap_or(false),
                follow_up: super::starts::follow_up,
            },
            environment,
            version,
            language: raw.language.unwrap_or_default(),
            role: raw.role.unwrap_or(Role::Worker),
            queues: raw.queues,
            slots: positive("slots", raw.slots.unwrap_or(100))?,
            lease_ms,
            beat_ms,
            max_parked: raw.max_parked.unwrap_or(1000),
            release_after_ms: raw.release_after_ms.unwrap_or(300_000).max(0),
            history_bytes: raw.history_bytes.unwrap_or(64 << 20),
            max_payload: raw.max_payload.unwrap_or(16 << 20),
            outage_budget_ms: raw.outage_budget_ms.unwrap_or(300_000),
            cancel_grace_ms: positive("cancel_grace_ms", raw.cancel_grace_ms.unwrap_or(60_000))?,
            max_crashes: raw.max_crashes.unwrap_or(5).max(1),
            auto_migrate: raw.auto_migrate,
            replay: raw.replay.unwrap_or(Replay::Normal),
            default_file,
        })
    }
}

/// A bare path is a SQLite file; what looks like a URL must be one of ours.
fn as_url(database: String) -> Result<String> {
    if database.starts_with("sqlite:") || database.starts_with("postgres://") || database.starts_with("postgresql://") {
        return Ok(database);
    }
    // Half a URL or a connection string would become a file of that name, password and all. Not repeated in the error for the same reason.
    let meant_for_a_server = database.contains(['@', '=']) || database.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("postgres"));
    if database.contains("://") || database.trim().is_empty() || meant_for_a_server {
        return Err(EngineError::new(
            Code::ConfigInvalid,
            "the database must be postgres://user:password@host/name, sqlite:path or the path of a SQLite file (with @ or = in it, or postgres before it: sqlite:path)",
        ));
    }
    Ok(format!("sqlite:{database}"))
}

fn production(set: &dyn Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str| set(name).is_some_and(|v| v.eq_ignore_ascii_case("production"));
    is("EVERSTEP_ENV") || is("NODE_ENV") || set("KUBERNETES_SERVICE_HOST").is_some()
}

fn valid_identifier(s: &str) -> bool {
    let mut chars = s.bytes();
    matches!(chars.next(), Some(b'a'..=b'z' | b'_')) && s.len() <= 63 && chars.all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn positive(name: &str, value: i64) -> Result<i64> {
    if value > 0 { Ok(value) } else { Err(invalid(name, "be above 0")) }
}

fn between(name: &str, value: i64, least: i64, most: i64) -> Result<i64> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(invalid(name, &format!("be {least} to {most}"))) }
}

fn invalid(name: &str, rule: &str) -> EngineError {
    EngineError::new(Code::ConfigInvalid, format!("{name} must {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(json: &str, env: &[(&str, &str)]) -> Result<Config> {
        Config::resolve(json, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn code(r: Result<Config>) -> Code {
        r.err().expect("an error").code
    }

    #[test]
    fn nothing_configured_is_a_file_in_development_and_an_error_in_production() {
        assert!(resolve("{}", &[]).ok().is_some_and(|c| c.default_file && c.store.url == "sqlite:everstep.db"));
        for env in [("EVERSTEP_ENV", "production"), ("NODE_ENV", "production"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")] {
            assert_eq!(code(resolve("{}", &[env])), Code::NoDatabase);
        }
        assert!(resolve(r#"{"database":"jobs.db"}"#, &[("EVERSTEP_ENV", "production")]).ok().is_some_and(|c| c.store.url == "sqlite:jobs.db"));
    }

    #[test]
    fn bad_values_are_named() {
        assert_eq!(code(resolve(r#"{"schema":"Drop Table"}"#, &[])), Code::ConfigInvalid);
        assert_eq!(code(resolve(r#"{"slots":0}"#, &[])), Code::ConfigInvalid);
        assert_eq!(code(resolve(r#"{"schema":"pg_mine"}"#, &[])), Code::ConfigInvalid);
        assert_eq!(code(resolve(r#"{"environment":"a\u0000"}"#, &[])), Code::IdInvalid);
        for queues in [r#"[""]"#, r#"["orders","a\nb"]"#] {
            assert_eq!(code(resolve(&format!(r#"{{"queues":{queues}}}"#), &[])), Code::IdInvalid);
        }
        assert_eq!(code(resolve(r#"{"unheard_of":1}"#, &[])), Code::ConfigInvalid);
        assert_eq!(
            resolve(r#"{"slots":"many"}"#, &[]).err().map(|e| e.message),
            Some("configuration: slots: invalid type: string \"many\", expected i64".into())
        );
        assert_eq!(code(resolve(r#"{"database":"mysql://x"}"#, &[])), Code::ConfigInvalid);
        for half in ["host=h password=s3cret dbname=x", "user:s3cret@localhost/x", "postgres:/u:s3cret@h/x", "Postgres"] {
            let error = resolve(&format!(r#"{{"database":"{half}"}}"#), &[]).err().expect("an error");
            assert!(error.code == Code::ConfigInvalid && !error.message.contains("s3cret"), "{half}: {}", error.message);
        }
        assert!(resolve(r#"{"database":"sqlite:a=b@c.db"}"#, &[]).is_ok());
        assert_eq!(code(resolve(r#"{"lease_ms":1000,"beat_ms":900}"#, &[])), Code::ConfigInvalid);
    }

    #[test]
    fn what_no_database_would_take_is_refused_by_name() {
        for (name, most) in [("pool", MOST_CONNECTIONS), ("statement_timeout_ms", LONGEST_MS), ("lease_ms", LONGEST_MS)] {
            for value in [-1, 0, most + 1, i64::MAX] {
                let error = resolve(&format!(r#"{{"{name}":{value}}}"#), &[]).err().expect("an error");
                assert!(error.code == Code::ConfigInvalid && error.message == format!("{name} must be 1 to {most}"), "{}", error.message);
            }
            assert!(resolve(&format!(r#"{{"{name}":{most}}}"#), &[]).is_ok());
        }
        assert_eq!(code(resolve(&format!(r#"{{"version":"{}"}}"#, "x".repeat(256)), &[])), Code::IdInvalid);
        assert_eq!(code(resolve(r#"{"version":"a\u0000"}"#, &[])), Code::IdInvalid);
        assert!(resolve(r#"{"version":""}"#, &[]).is_ok());
    }

    #[test]
    fn a_beat_without_an_answer_leaves_time_for_another() {
        let deadline = |json: &str| resolve(json, &[]).ok().map(|c| c.store.beat_timeout_ms);
        assert_eq!(deadline("{}"), Some(3_500));
        assert_eq!(deadline(r#"{"lease_ms":4000,"beat_ms":2000}"#), Some(1_000));
        assert_eq!(deadline(r#"{"statement_timeout_ms":900}"#), Some(900));
    }
}
