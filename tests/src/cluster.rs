//! Private PostgreSQL clusters: one `initdb` in a temporary directory, a free port on 127.0.0.1, every fault a server can suffer, and no
//! trace afterwards, also when the test panics. A cluster whose owner was killed outright is swept by the next one that starts.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const PREFIX: &str = "everstep-pg-";
/// A server on a slow shared machine may replay WAL for a while; past this it is broken.
const START_LIMIT: Duration = Duration::from_secs(60);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How a stop ends sessions: `Fast` rolls back and checkpoints, `Immediate` leaves crash recovery to the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Fast,
    Immediate,
}

/// The binaries of one PostgreSQL major.
#[derive(Debug, Clone)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// `EVERSTEP_PG_BIN`, else the newest of Debian's directories, else PATH.
    pub fn find() -> Option<Binaries> {
        if let Some(dir) = std::env::var_os("EVERSTEP_PG_BIN") {
            return Some(Binaries(dir.into()));
        }
        let mut majors: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
            .filter(|(_, bin): &(u32, PathBuf)| bin.join("postgres").exists() && bin.join("initdb").exists())
            .collect();
        majors.sort();
        if let Some((_, bin)) = majors.pop() {
            return Some(Binaries(bin));
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|d| d.join("postgres").exists() && d.join("initdb").exists()).map(Binaries)
    }

    fn tool(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn has_library(&self, name: &str) -> bool {
        let asked = Command::new(self.tool("pg_config")).arg("--pkglibdir").output();
        let told = asked.ok().filter(|o| o.status.success()).map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
        told.into_iter().chain([self.0.join("../lib")]).any(|d| d.join(format!("{name}.so")).exists())
    }
}

/// Whom to run a program as that refuses to be root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// None when we are not root: the programs then run as ourselves.
    pub(crate) fn unprivileged() -> Option<Account> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let ids = |name: &str| {
            let fields: Vec<&str> = passwd.lines().find(|l| l.split(':').next() == Some(name))?.split(':').collect();
            Some(Account { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
        };
        ids("postgres").or_else(|| ids("nobody"))
    }

    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    /// A command with no standard input that runs as `account`, in a process group of its own: Ctrl-C in the terminal is ours to handle.
    pub(crate) fn command(account: Option<Account>, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).env("LC_ALL", "C");
        if let Some(a) = account {
            command.uid(a.uid).gid(a.gid);
        }
        command
    }
}

pub struct Cluster {
    binaries: Binaries,
    account: Option<Account>,
    root: PathBuf,
    port: u16,
    server: Option<Child>,
    stopped: bool,
}

impl Cluster {
    /// initdb and start. Settings are `name=value` lines on top of the suite's.
    pub fn start(settings: &[&str]) -> Result<Cluster, String> {
        let binaries = Binaries::find().ok_or("PostgreSQL is not installed: no initdb and postgres. Install it, or set EVERSTEP_PG_BIN.")?;
        sweep();
        let root = std::env::temp_dir().join(format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let account = Account::unprivileged();
        let mut cluster = Cluster { binaries, account, root, port: 0, server: None, stopped: false };
        cluster.init(settings).map_err(|e| format!("a private PostgreSQL cluster did not start: {e}"))?;
        Ok(cluster)
    }

    fn init(&mut self, settings: &[&str]) -> Result<(), String> {
        let io = |e: io::Error| e.to_string();
        fs::create_dir_all(&self.root).map_err(io)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).map_err(io)?;
        if let Some(a) = self.account {
            a.own(&self.root).map_err(io)?;
        }
        let made = Account::command(self.account, &self.binaries.tool("initdb"))
            .args(["--username=everstep", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(self.data())
            .current_dir(&self.root)
            .output()
            .map_err(io)?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        let mut conf = vec![
            "listen_addresses = '127.0.0.1'".to_string(),
            format!("unix_socket_directories = '{}'", self.root.display()),
            "fsync = on".into(),
            "synchronous_commit = on".into(),
            "track_commit_timestamp = on".into(),
            "max_connections = 200".into(),
            "shared_buffers = 128MB".into(),
            "log_line_prefix = '%m [%p] %a '".into(),
            "deadlock_timeout = 200ms".into(),
        ];
        if self.binaries.has_library("pg_stat_statements") {
            conf.push("shared_preload_libraries = 'pg_stat_statements'".into());
        }
        conf.extend(settings.iter().map(|s| s.to_string()));
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).map_err(io)?;
        writeln!(file, "{}", conf.join("\n")).map_err(io)?;
        // Another process may take the port between our look and the server's bind.
        let mut last = String::new();
        for _ in 0..5 {
            self.port = free_port().map_err(io)?;
            match self.resume() {
                Ok(()) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://everstep@127.0.0.1:{}/{database}", self.port)
    }

    /// Unix socket directory and scratch space, removed with the cluster.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    pub fn postmaster(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Start (again) on the same port and wait until it takes connections.
    pub fn resume(&mut self) -> Result<(), String> {
        if self.server.is_some() {
            return Err("the server is already running".into());
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.root.join("log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let server = Account::command(self.account, &self.binaries.tool("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .current_dir(&self.root)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| e.to_string())?;
        let pid = server.id();
        self.server = Some(server);
        self.stopped = false;
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            if let Some(code) = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten()) {
                self.server = None;
                return Err(format!("postgres ended with {code}: {}", self.log_tail()));
            }
            // The last line of postmaster.pid turns to "ready" when sessions are let in.
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let lines: Vec<&str> = status.lines().collect();
            if lines.first() == Some(&pid.to_string().as_str()) && lines.get(7).is_some_and(|l| l.trim() == "ready") {
                return Ok(());
            }
            pause();
        }
        Err(format!("postgres is not ready after {START_LIMIT:?}: {}", self.log_tail()))
    }

    pub fn stop(&mut self, how: Stop) -> Result<(), String> {
        self.thaw();
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        let Some(server) = self.server.as_mut() else {
            return Ok(());
        };
        send(server.id(), signal);
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            if server.try_wait().map_err(|e| e.to_string())?.is_some() {
                self.server = None;
                return Ok(());
            }
            pause();
        }
        Err(format!("postgres did not stop: {}", self.log_tail()))
    }

    pub fn restart(&mut self, how: Stop) -> Result<(), String> {
        self.stop(how)?;
        self.resume()
    }

    /// SIGKILL to the postmaster and every backend, as a machine that loses power looks to the files (less the page cache).
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let children = children_of(server.id());
        send(server.id(), Signal::KILL);
        for pid in &children {
            send(*pid, Signal::KILL);
        }
        // The child is ours: reaping it cannot fail in a way that leaves it alive.
        drop(server.wait());
        // The next start refuses while an old backend still holds the shared memory.
        let until = Instant::now() + START_LIMIT;
        while children.iter().any(|p| alive(*p)) && Instant::now() < until {
            pause();
        }
        self.stopped = false;
    }

    /// SIGKILL to one backend: the postmaster throws out all others and recovers.
    pub fn kill_backend(&self, pid: u32) {
        send(pid, Signal::KILL);
    }

    /// SIGSTOP everything: connections stay open and nobody answers.
    pub fn freeze(&mut self) {
        self.signal_all(Signal::STOP);
        self.stopped = true;
    }

    pub fn thaw(&mut self) {
        if self.stopped {
            self.signal_all(Signal::CONT);
            self.stopped = false;
        }
    }

    fn signal_all(&self, signal: Signal) {
        if let Some(server) = &self.server {
            send(server.id(), signal);
            for pid in children_of(server.id()) {
                send(pid, signal);
            }
        }
    }

    /// Peak and current numbers of the whole server: user and system CPU seconds of postmaster, its live and its reaped children.
    pub fn cpu_seconds(&self) -> f64 {
        let Some(server) = &self.server else {
            return 0.0;
        };
        let ticks = |pid: u32, with_reaped: bool| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<f64> = stat.rsplit(") ").next().unwrap_or("").split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
            let last = if with_reaped { 15 } else { 13 };
            fields.get(11..last).map_or(0.0, |f| f.iter().sum())
        };
        let all: f64 = ticks(server.id(), true) + children_of(server.id()).into_iter().map(|p| ticks(p, false)).sum::<f64>();
        all / rustix::param::clock_ticks_per_second() as f64
    }

    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.root.join("log")) {
            drop(file.read_to_string(&mut text));
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
        drop(fs::remove_dir_all(&self.root));
    }
}

/// Outside the ephemeral range, so that no outgoing connection takes it while the server is down.
pub fn free_port() -> io::Result<u16> {
    let seed = std::process::id().wrapping_mul(7919).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(101));
    for offset in 0..2000 {
        let port = 20_000 + ((seed.wrapping_add(offset)) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port between 20000 and 32000"))
}

/// Remove what clusters left behind whose owner was killed before it could clean up.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if owner == std::process::id() || alive(owner) {
            continue;
        }
        let data = entry.path().join("data");
        let pid = fs::read_to_string(data.join("postmaster.pid")).ok().and_then(|t| t.lines().next()?.parse::<u32>().ok());
        // A pid from a file may have been given to somebody else since: only a postgres on this very directory is ended.
        if let Some(pid) = pid.filter(|p| command_line(*p).contains(&*data.to_string_lossy())) {
            for process in children_of(pid).into_iter().chain([pid]) {
                send(process, Signal::KILL);
            }
        }
        drop(fs::remove_dir_all(entry.path()));
    }
}

fn command_line(pid: u32) -> String {
    fs::read(format!("/proc/{pid}/cmdline")).map(|b| String::from_utf8_lossy(&b).replace('\0', " ")).unwrap_or_default()
}

pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let of = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|p| of(*p) == Some(parent)).collect()
}

/// A process that has ended but was not reaped counts as gone.
pub fn alive(pid: u32) -> bool {
    let Some(id) = Pid::from_raw(pid as i32) else {
        return false;
    };
    let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.rsplit(") ").next().is_some_and(|r| r.starts_with('Z')));
    test_kill_process(id).is_ok() && !zombie
}

/// A signal to a process that is already gone is no failure: it is what the caller wanted.
pub fn send(pid: u32, signal: Signal) {
    if let Some(id) = Pid::from_raw(pid as i32) {
        let _ = kill_process(id, signal);
    }
}

/// Between two looks at a condition.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answers(url: &str) -> Result<i32, sqlx::Error> {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(url).await?;
        sqlx::query_scalar("select count(*)::int from kept").fetch_one(&mut connection).await
    }

    #[tokio::test]
    async fn keeps_what_was_committed_through_every_fault_and_leaves_nothing() {
        use sqlx::Connection;
        let mut cluster = Cluster::start(&[]).expect("a cluster");
        let url = cluster.url("postgres");
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
        sqlx::raw_sql("create table kept (n int); insert into kept values (1)").execute(&mut connection).await.expect("writes");
        drop(connection);
        cluster.restart(Stop::Fast).expect("restarts");
        assert_eq!(answers(&url).await.expect("after a restart"), 1);
        cluster.kill();
        assert!(answers(&url).await.is_err(), "a killed server answers");
        cluster.resume().expect("recovers");
        assert_eq!(answers(&url).await.expect("after a crash"), 1);
        cluster.freeze();
        let silent = tokio::time::timeout(Duration::from_millis(300), answers(&url)).await;
        assert!(silent.is_err(), "a frozen server answers");
        cluster.thaw();
        assert_eq!(answers(&url).await.expect("after a freeze"), 1);
        let (root, pid) = (cluster.directory().to_path_buf(), cluster.postmaster().expect("runs"));
        drop(cluster);
        assert!(!root.exists() && !alive(pid), "something is left of the cluster");
    }
}
