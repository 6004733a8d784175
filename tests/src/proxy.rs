//! A fault proxy that reads the PostgreSQL wire protocol, so that a cut can fall exactly before or exactly after a COMMIT (or any
//! statement) has taken effect. Rules are changed by the runner while traffic flows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Fails at plan time, inside whatever transaction is open; its error is rewritten on the way back.
const FAILING: &str = "select 1/0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Close both sides; the statement never reaches the server.
    CutBefore,
    /// Let the server do it and answer, then close both sides; the client never hears.
    CutAfter,
    /// The server refuses it with this SQLSTATE, truly: an open transaction is aborted.
    Fail(String),
    /// Hold this statement back for so long.
    Delay(Duration),
    /// From here on nothing moves on this connection, and it stays open.
    Blackhole,
}

/// What to do to statements that contain `text` (any case): the first `skip` pass, then `times` are hit.
#[derive(Debug, Clone)]
pub struct Rule {
    pub text: String,
    pub skip: u64,
    pub times: u64,
    pub action: Action,
}

impl Rule {
    pub fn once(text: &str, action: Action) -> Rule {
        Rule { text: text.to_lowercase(), skip: 0, times: 1, action }
    }

    /// The next statement of this connection's kind after `skip` others.
    pub fn after(mut self, skip: u64) -> Rule {
        self.skip = skip;
        self
    }

    pub fn repeated(mut self, times: u64) -> Rule {
        self.times = times;
        self
    }
}

struct State {
    rules: Mutex<Vec<Rule>>,
    hits: AtomicU64,
    statements: AtomicU64,
    refuse: AtomicBool,
    cut: watch::Sender<u64>,
    silent: watch::Sender<bool>,
    upstream: Mutex<SocketAddr>,
    hit: Notify,
}

/// Poisoning means a panic elsewhere, which already fails the test.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    accept: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream_port: u16) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            rules: Mutex::default(),
            hits: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            refuse: AtomicBool::new(false),
            cut: watch::Sender::new(0),
            silent: watch::Sender::new(false),
            upstream: Mutex::new(SocketAddr::from(([127, 0, 0, 1], upstream_port))),
            hit: Notify::new(),
        });
        let shared = state.clone();
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !shared.refuse.load(Ordering::Relaxed) {
                    // A connection's own errors are the point of this program: the peers see them as cuts.
                    tokio::spawn(serve(shared.clone(), client));
                }
            }
        });
        Ok(Proxy { state, address, accept })
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://everstep@{}/{database}", self.address)
    }

    pub fn rule(&self, rule: Rule) {
        lock(&self.state.rules).push(rule);
    }

    pub fn clear(&self) {
        lock(&self.state.rules).clear();
    }

    /// How many statements rules have hit so far.
    pub fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::Relaxed)
    }

    /// Statements seen since the start.
    pub fn statements(&self) -> u64 {
        self.state.statements.load(Ordering::Relaxed)
    }

    pub async fn until_hits(&self, wanted: u64) {
        loop {
            let told = self.state.hit.notified();
            if self.hits() >= wanted {
                return;
            }
            told.await;
        }
    }

    /// Close every connection now.
    pub fn cut_all(&self) {
        self.state.cut.send_modify(|n| *n += 1);
    }

    /// No bytes move in either direction, on old connections and new ones alike, until it is taken back.
    pub fn blackhole(&self, on: bool) {
        self.state.silent.send_replace(on);
    }

    /// New connections are closed at once.
    pub fn refuse(&self, on: bool) {
        self.state.refuse.store(on, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut_all();
    }
}

/// What the answer pump must do when the server has finished the n-th request cycle of a connection.
#[derive(Default)]
struct Plan {
    sent: u64,
    cut_after: Option<u64>,
    fail: Option<(u64, String)>,
}

struct Link {
    state: Arc<State>,
    plan: Mutex<Plan>,
    ended: Notify,
}

async fn serve(state: Arc<State>, client: TcpStream) {
    let upstream = *lock(&state.upstream);
    let mut cut = state.cut.subscribe();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let link = Arc::new(Link { state, plan: Mutex::default(), ended: Notify::new() });
    // Whichever ends first takes the other's halves with it: both sockets close.
    tokio::select! {
        _ = requests(&link, from_client, to_server, to_client, from_server) => {}
        _ = cut.changed() => {}
        _ = link.ended.notified() => {}
    }
}

async fn requests(
    link: &Arc<Link>,
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    mut to_client: OwnedWriteHalf,
    from_server: OwnedReadHalf,
) -> std::io::Result<()> {
    loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; (length as usize).saturating_sub(4)];
        client.read_exact(&mut body).await?;
        let code = body.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        if code == SSL_REQUEST || code == GSS_REQUEST {
            to_client.write_all(b"N").await?;
            continue;
        }
        server.write_u32(length).await?;
        server.write_all(&body).await?;
        if code == CANCEL_REQUEST {
            return Ok(());
        }
        break;
    }
    let answers = answers(link.clone(), from_server, to_client);
    let statements = statements(link, client, server);
    tokio::select! {
        ended = answers => ended,
        ended = statements => ended,
    }
}

async fn quiet(state: &State) {
    let mut silent = state.silent.subscribe();
    // The sender lives in `state`, which we hold.
    drop(silent.wait_for(|on| !on).await);
}

/// One message: type byte, body.
async fn message(from: &mut OwnedReadHalf) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut body = vec![0; (length as usize).saturating_sub(4)];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(kind);
    out.extend(((body.len() + 4) as u32).to_be_bytes());
    out.extend(body);
    out
}

fn c_string(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes.get(end + 1..).unwrap_or_default())
}

/// Client to server, with prepared statements and portals resolved to their text.
async fn statements(link: &Arc<Link>, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) -> std::io::Result<()> {
    let mut prepared: HashMap<String, String> = HashMap::new();
    let mut portals: HashMap<String, String> = HashMap::new();
    loop {
        let (kind, body) = message(&mut client).await?;
        quiet(&link.state).await;
        let text = match kind {
            b'Q' => Some(c_string(&body).0),
            b'P' => {
                let (name, rest) = c_string(&body);
                prepared.insert(name, c_string(rest).0);
                None
            }
            b'B' => {
                let (portal, rest) = c_string(&body);
                let (name, _) = c_string(rest);
                portals.insert(portal, prepared.get(&name).cloned().unwrap_or_default());
                None
            }
            b'E' => portals.get(&c_string(&body).0).cloned(),
            _ => None,
        };
        let action = text.as_deref().and_then(|t| matching(&link.state, t));
        let mut out = framed(kind, &body);
        match action {
            Some(Action::CutBefore) => return Ok(()),
            Some(Action::Delay(time)) => tokio::time::sleep(time).await,
            Some(Action::Blackhole) => std::future::pending().await,
            Some(Action::CutAfter) => {
                let mut plan = lock(&link.plan);
                plan.cut_after = Some(plan.sent + 1);
            }
            Some(Action::Fail(code)) => {
                let mut plan = lock(&link.plan);
                plan.fail = Some((plan.sent + 1, code));
                let commit = text.as_deref().is_some_and(|t| t.trim().to_lowercase().starts_with("commit"));
                out = match kind {
                    // A COMMIT that fails ends its transaction all the same.
                    b'Q' => framed(b'Q', format!("{}{FAILING}\0", if commit { "rollback; " } else { "" }).as_bytes()),
                    _ => framed(b'P', format!("\0selec {FAILING}\0\0\0").as_bytes()),
                };
            }
            None => {}
        }
        if matches!(kind, b'Q' | b'S') {
            lock(&link.plan).sent += 1;
        }
        server.write_all(&out).await?;
    }
}

fn matching(state: &State, text: &str) -> Option<Action> {
    state.statements.fetch_add(1, Ordering::Relaxed);
    let text = text.to_lowercase();
    let mut rules = lock(&state.rules);
    let rule = rules.iter_mut().find(|r| r.times > 0 && text.contains(&r.text))?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    rule.times -= 1;
    let action = rule.action.clone();
    drop(rules);
    state.hits.fetch_add(1, Ordering::Relaxed);
    state.hit.notify_waiters();
    Some(action)
}

/// Server to client. `Z` (ready for query) ends a request cycle; the first one belongs to the start of the session.
async fn answers(link: Arc<Link>, mut server: OwnedReadHalf, mut client: OwnedWriteHalf) -> std::io::Result<()> {
    let mut finished: Option<u64> = None;
    loop {
        let (kind, body) = message(&mut server).await?;
        quiet(&link.state).await;
        let cycle = finished.map_or(0, |n| n + 1);
        let (cutting, failing) = {
            let plan = lock(&link.plan);
            let cutting = finished.is_some() && plan.cut_after == Some(cycle);
            (cutting, plan.fail.clone().filter(|(at, _)| finished.is_some() && *at == cycle).map(|(_, code)| code))
        };
        if kind == b'Z' {
            finished = Some(cycle);
        }
        match (cutting, failing) {
            (true, _) if kind == b'Z' => {
                link.ended.notify_one();
                return Ok(());
            }
            (true, _) => {}
            (false, Some(code)) if kind == b'E' => {
                let error = format!("SERROR\0VERROR\0C{code}\0Minjected by the suite\0\0");
                client.write_all(&framed(b'E', error.as_bytes())).await?;
            }
            (false, Some(_)) if matches!(kind, b'C' | b'T' | b'D') => {}
            _ => client.write_all(&framed(kind, &body)).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use sqlx::{Connection, PgConnection};

    async fn insert(url: &str, n: i32) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(url).await?;
        let mut tx = connection.begin().await?;
        sqlx::query("insert into kept values ($1)").bind(n).execute(&mut *tx).await?;
        tx.commit().await
    }

    #[tokio::test]
    async fn cuts_and_fails_exactly_where_it_says() {
        let cluster = Cluster::start(&[]).expect("a cluster");
        let proxy = Proxy::start(cluster.port()).await.expect("a proxy");
        let (url, direct) = (proxy.url("postgres"), cluster.url("postgres"));
        let mut look = PgConnection::connect(&direct).await.expect("connects");
        sqlx::raw_sql("create table kept (n int)").execute(&mut look).await.expect("creates");

        insert(&url, 1).await.expect("passes untouched");
        proxy.rule(Rule::once("commit", Action::CutBefore));
        assert!(insert(&url, 2).await.is_err(), "a cut before COMMIT went unnoticed");
        proxy.rule(Rule::once("commit", Action::CutAfter));
        assert!(insert(&url, 3).await.is_err(), "a cut after COMMIT went unnoticed");
        proxy.rule(Rule::once("insert into kept", Action::Fail("40001".into())));
        let refused = insert(&url, 4).await.expect_err("the injected error got lost");
        assert_eq!(refused.as_database_error().and_then(|e| e.code().map(|c| c.into_owned())).as_deref(), Some("40001"));
        proxy.rule(Rule::once("commit", Action::Fail("40001".into())));
        let refused = insert(&url, 5).await.expect_err("the injected error got lost");
        assert_eq!(refused.as_database_error().and_then(|e| e.code().map(|c| c.into_owned())).as_deref(), Some("40001"));
        insert(&url, 6).await.expect("passes again");
        assert_eq!(proxy.hits(), 4);

        let kept: Vec<i32> = sqlx::query_scalar("select n from kept order by n").fetch_all(&mut look).await.expect("reads");
        assert_eq!(kept, [1, 3, 6]);

        proxy.blackhole(true);
        assert!(tokio::time::timeout(Duration::from_millis(300), insert(&url, 7)).await.is_err(), "something came through a black hole");
        proxy.blackhole(false);
        proxy.cut_all();
        insert(&url, 8).await.expect("passes after a cut");
    }
}
