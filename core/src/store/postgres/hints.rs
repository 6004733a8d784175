//! Hints between processes by LISTEN/NOTIFY: coalesced, in a commit of their own, and nothing depends on them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use uuid::Uuid;

use super::PostgresStore;
use super::connect::{Home, Shared};
use crate::store::{Result, WakeHint};

/// The first is sent at once, what follows within this goes together: a NOTIFY takes a lock the whole database shares.
const COALESCE: Duration = Duration::from_millis(10);
/// Behind a pooler there is no LISTEN: look this often while something goes on here, and else that often.
const POLL_BUSY: Duration = Duration::from_millis(250);
const POLL_IDLE: Duration = Duration::from_secs(2);
const BUSY_FOR: Duration = Duration::from_secs(10);
const RECONNECT: Duration = Duration::from_secs(1);

/// Its commit waits for no disk: a hint that a crash of the server loses is one that nobody is left to hear.
const NOTIFY: &str = "select set_config('synchronous_commit', 'off', true), pg_notify($1, x) from unnest($2::text[]) as x";

struct Outgoing {
    waiting: HashSet<String>,
    sending: bool,
}

struct Inner {
    /// Tells own notifications from those of others.
    sender: Uuid,
    channel: String,
    local: Mutex<Vec<WakeHint>>,
    arrived: Notify,
    /// Something was found that a hint should have told.
    doubted: Notify,
    outgoing: Mutex<Outgoing>,
    last_busy: Mutex<Option<Instant>>,
}

#[derive(Clone)]
pub(super) struct Hints {
    inner: Arc<Inner>,
    listener: Arc<tokio::sync::Mutex<Option<PgListener>>>,
    connecting: Arc<AtomicBool>,
}

/// Lets the next one begin, also when the task is dropped with its runtime.
struct Connecting(Hints);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.store(false, Ordering::SeqCst);
        // Who waits for hints looks again, and begins another if there is no listener.
        self.0.inner.arrived.notify_one();
    }
}

fn word(hint: &WakeHint) -> String {
    match hint {
        WakeHint::Ready => "r".into(),
        WakeHint::ReadyOn(route) => format!("r{route:x}"),
        WakeHint::Left(route) => format!("l{route:x}"),
        WakeHint::Timer(ms) => format!("t{ms}"),
        WakeHint::Lease(ms) => format!("w{ms}"),
        WakeHint::Inbox(incarnation) => format!("i{}", incarnation.simple()),
        WakeHint::Finished => "f".into(),
        WakeHint::Awaiting => "a".into(),
        WakeHint::Queues => "q".into(),
        WakeHint::Resync => "s".into(),
    }
}

fn hint(word: &str) -> Option<WakeHint> {
    match word {
        "r" => Some(WakeHint::Ready),
        "f" => Some(WakeHint::Finished),
        "a" => Some(WakeHint::Awaiting),
        "q" => Some(WakeHint::Queues),
        "s" => Some(WakeHint::Resync),
        other => {
            let rest = other.get(1..)?;
            match other.get(..1)? {
                // As it is printed: the bits of an i64, whatever its sign.
                "r" => Some(WakeHint::ReadyOn(u64::from_str_radix(rest, 16).ok()?.cast_signed())),
                "l" => Some(WakeHint::Left(u64::from_str_radix(rest, 16).ok()?.cast_signed())),
                "t" => Some(WakeHint::Timer(rest.parse().ok()?)),
                "w" => Some(WakeHint::Lease(rest.parse().ok()?)),
                "i" => Some(WakeHint::Inbox(Uuid::parse_str(rest).ok()?)),
                _ => None,
            }
        }
    }
}

impl Hints {
    pub(super) fn new(shared: &Shared) -> Self {
        let mut digest = Sha256::new();
        digest.update(shared.schema.as_bytes());
        digest.update([0]);
        digest.update(shared.namespace.as_bytes());
        let channel: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Hints {
            inner: Arc::new(Inner {
                sender: Uuid::new_v4(),
                channel: format!("everstep_{channel}"),
                local: Mutex::new(Vec::new()),
                arrived: Notify::new(),
                doubted: Notify::new(),
                outgoing: Mutex::new(Outgoing { waiting: HashSet::new(), sending: false }),
                last_busy: Mutex::new(None),
            }),
            listener: Arc::new(tokio::sync::Mutex::new(None)),
            connecting: Arc::default(),
        }
    }

    /// What a call of this store woke: told here at once, and to other processes in the background. `own`: whose inbox needs no notification.
    pub(super) fn tell(&self, store: &PostgresStore, own: Option<Uuid>, hints: Vec<WakeHint>) {
        *self.inner.last_busy.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if hints.is_empty() {
            return;
        }
        {
            let mut outgoing = self.inner.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            outgoing.waiting.extend(hints.iter().filter(|hint| !matches!(hint, WakeHint::Inbox(to) if Some(*to) == own)).map(word));
        }
        self.arrive(hints);
        // A current-thread runtime (the heartbeat's) stops between calls: a task of it would not run. Whoever waits for hints sends then.
        let runtime = tokio::runtime::Handle::current();
        if runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread && !store.shared.closed() {
            let (inner, shared, pool) = (self.inner.clone(), store.shared.clone(), store.pool.clone());
            if inner.begin_sending() {
                runtime.spawn(async move { inner.send_all(&shared, &pool).await });
            }
        }
    }

    fn arrive(&self, hints: Vec<WakeHint>) {
        let mut local = self.inner.local.lock().unwrap_or_else(PoisonError::into_inner);
        for hint in hints {
            if !local.contains(&hint) {
                local.push(hint);
            }
        }
        drop(local);
        self.inner.arrived.notify_one();
    }

    fn take(&self) -> Vec<WakeHint> {
        std::mem::take(&mut *self.inner.local.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn next(&self, store: &PostgresStore) -> Vec<WakeHint> {
        loop {
            let here = self.take();
            if !here.is_empty() {
                return here;
            }
            if store.shared.closed() {
                return std::future::pending().await;
            }
            if self.inner.begin_sending() {
                self.inner.send_all(&store.shared, &store.pool).await;
            }
            if store.shared.pooled() {
                let busy = self.inner.last_busy.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < BUSY_FOR);
                tokio::select! {
                    () = self.inner.arrived.notified() => {}
                    () = tokio::time::sleep(if busy { POLL_BUSY } else { POLL_IDLE }) => return vec![WakeHint::Ready, WakeHint::Finished, WakeHint::Inbox(Uuid::nil())],
                }
                continue;
            }
            tokio::select! {
                () = self.inner.arrived.notified() => {}
                heard = self.listen(&store.shared) => return heard,
            }
        }
    }

    /// Listen until something is heard. A listener that fails is dropped, and the next one begins by saying that hints may be missing.
    async fn listen(&self, shared: &Arc<Shared>) -> Vec<WakeHint> {
        let mut slot = self.listener.lock().await;
        let Some(listener) = slot.as_mut() else {
            drop(slot);
            self.begin_connecting(shared);
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                got = listener.try_recv() => match got {
                    Ok(Some(notification)) => {
                        let mut parts = notification.payload().split(',');
                        let own = parts.next().and_then(|sender| Uuid::parse_str(sender).ok()) == Some(self.inner.sender);
                        let heard: Vec<WakeHint> = parts.filter_map(hint).collect();
                        if !own && !heard.is_empty() {
                            return heard;
                        }
                    }
                    Ok(None) | Err(_) => {
                        *slot = None;
                        return vec![WakeHint::Resync];
                    }
                },
                () = self.inner.doubted.notified() => {
                    if tokio::time::timeout(shared.timeout, listener.listen(&self.inner.channel)).await.is_ok_and(|heard| heard.is_ok()) {
                        continue;
                    }
                    *slot = None;
                    return vec![WakeHint::Resync];
                }
            }
        }
    }

    /// A connection that died without a word is found by what it did not say: asking every minute whether it lives would be most of what an
    /// idle process does. The server's keep-alive (see `connect`) keeps what stands between the two from forgetting it.
    pub(super) fn doubt(&self) {
        self.inner.doubted.notify_one();
    }

    /// For a statement that says this hint in its own commit: channel and text.
    pub(super) fn notification(&self, hint: &WakeHint) -> (&str, String) {
        (&self.inner.channel, format!("{},{}", self.inner.sender.simple(), word(hint)))
    }

    /// In a task of its own: this very wait is dropped whenever something happens here, and where much does, no connection would ever be made.
    fn begin_connecting(&self, shared: &Arc<Shared>) {
        if self.connecting.swap(true, Ordering::SeqCst) {
            return;
        }
        let (turn, shared) = (Connecting(self.clone()), shared.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(shared.timeout, turn.0.connect(&shared)).await {
                Ok(Ok(listener)) => {
                    let mut slot = turn.0.listener.lock().await;
                    if !shared.closed() {
                        *slot = Some(listener);
                        drop(slot);
                        turn.0.arrive(vec![WakeHint::Resync]);
                    }
                }
                // The engine's calls meet the same outage and report it; here there is nothing to do but to try again.
                Ok(Err(_)) | Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        });
    }

    async fn connect(&self, shared: &Shared) -> sqlx::Result<PgListener> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(shared.timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(shared.lone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen(&self.inner.channel).await?;
        Ok(listener)
    }

    /// Say it now.
    pub(super) async fn send(&self, store: &PostgresStore, hints: &[WakeHint]) -> Result<()> {
        let words = hints.iter().map(word).collect();
        self.inner.send(&store.shared, &store.pool, words).await
    }

    /// The store is closed: whoever waits for hints lets go of the listener.
    pub(super) async fn close(&self) {
        self.inner.arrived.notify_one();
        if let Ok(mut listener) = tokio::time::timeout(RECONNECT, self.listener.lock()).await {
            *listener = None;
        }
    }
}

impl Inner {
    /// Become the one who sends, if there is something to send and nobody does.
    fn begin_sending(&self) -> bool {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = !outgoing.sending && !outgoing.waiting.is_empty();
        outgoing.sending |= begin;
        begin
    }

    async fn send_all(&self, shared: &Arc<Shared>, pool: &Arc<Home>) {
        let done = Sending(self);
        loop {
            let words: Vec<String> = {
                let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
                outgoing.waiting.drain().collect()
            };
            // A hint that cannot be sent is no loss: everybody looks by himself, only later.
            if words.is_empty() || self.send(shared, pool, words).await.is_err() {
                break;
            }
            tokio::time::sleep(COALESCE).await;
        }
        drop(done);
    }

    async fn send(&self, shared: &Arc<Shared>, pool: &Arc<Home>, words: Vec<String>) -> Result<()> {
        // A payload holds less than 8000 bytes.
        let texts: Vec<String> = words.chunks(150).map(|chunk| format!("{},{}", self.sender.simple(), chunk.join(","))).collect();
        let mut session = pool.session(shared).await?;
        session.rows(session.q(NOTIFY).bind(&self.channel).bind(texts)).await.map(|_| ())
    }
}

/// Ends the turn of the sender, also when its future is dropped half-way.
struct Sending<'a>(&'a Inner);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.outgoing.lock().unwrap_or_else(PoisonError::into_inner).sending = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::store::StoreConfig;

    #[tokio::test]
    async fn a_connection_is_made_although_the_wait_for_it_is_dropped() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let config = StoreConfig {
            follow_up: |_, _| None,
            url: format!("postgres://nobody@{}/none", server.local_addr().expect("an address")),
            schema: "everstep".into(),
            namespace: "default".into(),
            lanes: 1,
            pool: 1,
            pooler: Some(false),
            statement_timeout_ms: 30_000,
            beat_timeout_ms: 30_000,
            allow_async_commit: false,
        };
        let shared = Arc::new(Shared::new(&config).expect("the URL is good"));
        let hints = Hints::new(&shared);
        // Something happens here as soon as the server has been called.
        let (mut caller, _) = tokio::select! {
            _ = hints.listen(&shared) => panic!("nobody has said anything"),
            called = server.accept() => called.expect("is called"),
        };
        let mut said = [0; 256];
        assert!(caller.read(&mut said).await.expect("reads") > 0, "it asks for TLS");
        caller.write_all(b"N").await.expect("answers");
        assert!(caller.read(&mut said).await.expect("reads") > 0, "and goes on without");
    }
}
