//! pgbouncer in transaction mode in front of a private cluster: the pooler most users have, and the one that hands one session to many.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{Account, Cluster, free_port, pause, send};

pub struct Pooler {
    directory: PathBuf,
    port: u16,
    process: Child,
}

impl Pooler {
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian puts it where an ordinary user's PATH does not look.
        let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        places.map(|d| d.join("pgbouncer")).find(|p| p.exists())
    }

    /// Few server sessions for many clients, so that clients do share them.
    pub fn start(cluster: &Cluster, server_sessions: u32) -> Result<Pooler, String> {
        let program = Self::find().ok_or("pgbouncer is not installed: install the package pgbouncer")?;
        let port = free_port().map_err(|e| e.to_string())?;
        let directory = cluster.directory().join(format!("pgbouncer-{port}"));
        let write = |name: &str, text: String| fs::write(directory.join(name), text).map_err(|e| e.to_string());
        fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        let account = Account::unprivileged();
        if let Some(account) = account {
            account.own(&directory).map_err(|e| e.to_string())?;
        }
        write("users.txt", "\"everstep\" \"\"\n".into())?;
        write(
            "pgbouncer.ini",
            format!(
                "[databases]\n* = host=127.0.0.1 port={} user=everstep\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = trust\nauth_file = {}/users.txt\npool_mode = transaction\ndefault_pool_size = {server_sessions}\nmax_client_conn = 500\n\
                 server_login_retry = 1\nignore_startup_parameters = extra_float_digits\nlogfile = {}/log\n",
                cluster.port(),
                directory.display(),
                directory.display()
            ),
        )?;
        let process = Account::command(account, &program)
            .arg("-q")
            .arg(directory.join("pgbouncer.ini"))
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut pooler = Pooler { directory, port, process };
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until || pooler.process.try_wait().is_ok_and(|w| w.is_some()) {
                return Err(format!("pgbouncer did not start: {}", fs::read_to_string(pooler.directory.join("log")).unwrap_or_default()));
            }
            pause();
        }
        Ok(pooler)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://everstep@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        send(self.process.id(), Signal::KILL);
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Connection;

    #[tokio::test]
    async fn hands_one_server_session_to_many_clients() {
        let cluster = Cluster::start(&[]).expect("a cluster");
        let pooler = Pooler::start(&cluster, 1).expect("a pooler");
        let mut backends = Vec::new();
        for _ in 0..2 {
            let mut connection = sqlx::PgConnection::connect(&pooler.url("postgres")).await.expect("connects");
            let mut tx = connection.begin().await.expect("begins");
            let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").persistent(false).fetch_one(&mut *tx).await.expect("answers");
            tx.commit().await.expect("commits");
            backends.push((pid, connection));
        }
        assert_eq!(backends[0].0, backends[1].0, "two clients did not share one session: not transaction mode");
    }
}
