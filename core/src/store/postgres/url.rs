//! What the URL of a database names: hosts, and how each is asked for a session.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgConnectOptions;

use crate::store::{Result, StoreError};

/// Never printed: sqlx shows the password in its Debug.
pub(super) struct Hosts {
    url: String,
    /// One a host, tried in turn.
    hosts: Mutex<Vec<PgConnectOptions>>,
}

impl Hosts {
    pub(super) fn of(url: &str) -> Result<Self> {
        Ok(Hosts { hosts: Mutex::new(parse(url)?), url: url.to_string() })
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<PgConnectOptions>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.hosts().len()
    }

    pub(super) fn get(&self, at: usize) -> PgConnectOptions {
        self.hosts()[at].clone()
    }

    /// Once more, after a refusal: a password that is not in the URL comes from PGPASSWORD or the passfile, and whoever changes it changes it there. Not so
    /// anything else of the environment, which a program may have set for another database since. Not before each session: the host may be writing its
    /// environment, which no other thread can read safely meanwhile.
    pub(super) fn read_again(&self, at: usize) -> PgConnectOptions {
        let now = parse(&self.url).ok().and_then(|mut hosts| (at < hosts.len()).then(|| hosts.swap_remove(at)));
        let kept = &mut self.hosts()[at];
        if let Some(now) = now.filter(|now| is_same_place(now, kept)) {
            *kept = now;
        }
        kept.clone()
    }
}

fn is_same_place(a: &PgConnectOptions, b: &PgConnectOptions) -> bool {
    (a.get_host(), a.get_port(), a.get_socket(), a.get_username()) == (b.get_host(), b.get_port(), b.get_socket(), b.get_username())
        && (a.get_database(), a.get_options(), a.get_ssl_mode() as u8) == (b.get_database(), b.get_options(), b.get_ssl_mode() as u8)
}

/// `postgres://u:p@a:1,b:2/db` names two hosts. Errors never repeat the URL.
fn parse(url: &str) -> Result<Vec<PgConnectOptions>> {
    let invalid = || StoreError::Setup {
        code: "config_invalid",
        message: "The database URL is not of the form postgres://user:password@host:port/database. In user and password a `/`, `?`, `#`, `@` or `%` must be \
                  percent-encoded (`/` as %2F)."
            .into(),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    if is_cut_short(authority, tail) {
        return Err(invalid());
    }
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    hosts
        .split(',')
        .map(|host| {
            let options: PgConnectOptions = format!("{scheme}://{user}{host}{tail}").parse().map_err(|_| invalid())?;
            // pgbouncer refuses the parameter sqlx would send for floats.
            Ok(options.application_name("everstep").extra_float_digits(None))
        })
        .collect()
}

/// A bare `/`, `?` or `#` in user or password has ended the authority, and the rest with its `@` stands behind it. What is left before may look like host and
/// port, and errors show those.
fn is_cut_short(authority: &str, tail: &str) -> bool {
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let in_path = match path.split_once('@') {
        // A database may have an `@` in its name; none is called like a host and its database.
        Some((_, after)) => !authority.contains('@') || after.contains('/'),
        None => false,
    };
    let of_ours = |key: &str| ["user", "password", "dbname", "host", "application_name", "options"].contains(&key) || key.starts_with("ssl");
    let in_query = query.split('&').any(|part| part.contains('@') && !part.split_once('=').is_some_and(|(key, _)| of_ours(key)));
    tail.contains('#') || in_path || in_query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_not_encoded_is_not_taken_for_a_host_and_port() {
        for url in [
            "postgres://app:12345/67@db/x",
            "postgres://app:s3cret/67@db/x",
            "postgres://app:12345?67@db/x",
            "postgres://app:12345?6=7@db/x",
            "postgres://app:12345#67@db/x",
            "postgres://app:12345/6?7@db/x",
            "postgres://me@corp:12345/67@db/x",
            "postgres://app:s3cret%zz@db:12345x/x",
        ] {
            let Err(StoreError::Setup { code, message }) = parse(url) else { panic!("{url} was taken") };
            assert!(code == "config_invalid" && message.contains("percent-encoded"), "{url}: {message}");
            assert!(["12345", "67", "s3cret"].iter().all(|part| !message.contains(part)), "{url}: {message}");
        }
    }

    #[test]
    fn hosts_ports_and_names_are_read() {
        let places = |url: &str| -> Vec<String> {
            let hosts = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            hosts.iter().map(|h| format!("{}@{}:{}/{}", h.get_username(), h.get_host(), h.get_port(), h.get_database().unwrap_or_default())).collect()
        };
        assert_eq!(places("postgres://u:p%2F%3F%23%40@a:1,b:2/db"), ["u@a:1/db", "u@b:2/db"]);
        assert_eq!(places("postgresql://u:p@ss@a:1/db?sslmode=require"), ["u@a:1/db"]);
        assert_eq!(places("postgres://a:1/db?user=me@corp&password=x@y"), ["me@corp@a:1/db"]);
        assert_eq!(places("postgres://u:p@a:1/mail@work"), ["u@a:1/mail@work"]);
    }
}
