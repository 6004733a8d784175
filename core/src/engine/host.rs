//! Which process this is: host, boot, pid namespace, pid and start time name one process of one machine for as long as it lives.

use crate::store::Peer;

#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    pub boot_id: String,
    pub pid_namespace: String,
    pub pid: i32,
    pub process_start: i64,
}

impl Host {
    pub fn here() -> Self {
        let pid = std::process::id() as i32;
        Host {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default(),
            pid_namespace: std::fs::read_link("/proc/self/ns/pid").map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            pid,
            process_start: match look_at(pid) {
                Seen::Started(at) => at,
                Seen::Gone | Seen::Unknown => 0,
            },
        }
    }

    /// Whether that worker's process is known to have gone. Only a process of this boot and pid namespace can be judged from here.
    pub fn knows_dead(&self, peer: &Peer) -> bool {
        if self.boot_id.is_empty() || self.process_start == 0 || peer.boot_id != self.boot_id || peer.pid_namespace != self.pid_namespace {
            return false;
        }
        match look_at(peer.pid) {
            Seen::Started(at) => at != peer.process_start,
            Seen::Gone => true,
            Seen::Unknown => false,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Seen {
    /// Clock ticks after boot.
    Started(i64),
    /// There is no such process, or only its zombie.
    Gone,
    /// It cannot be told: the other users' processes may be hidden, or no more files can be opened. Taken for dead, a healthy worker would lose its runs.
    Unknown,
}

fn look_at(pid: i32) -> Seen {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => read_stat(&stat),
        Err(_) => signalled(rustix::process::Pid::from_raw(pid).map(rustix::process::test_kill_process)),
    }
}

/// What a signal of no effect says of a process that cannot be read.
fn signalled(answer: Option<rustix::io::Result<()>>) -> Seen {
    match answer {
        Some(Err(rustix::io::Errno::SRCH)) => Seen::Gone,
        _ => Seen::Unknown,
    }
}

fn read_stat(stat: &str) -> Seen {
    // The command name stands in parentheses and may hold anything; fields are counted behind the last one.
    let Some((_, fields)) = stat.rsplit_once(')') else { return Seen::Unknown };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return Seen::Gone;
    }
    fields.get(19).and_then(|ticks| ticks.parse().ok()).map_or(Seen::Unknown, Seen::Started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_be_read_is_dead_only_when_a_signal_finds_nobody() {
        use rustix::io::Errno;
        assert_eq!(signalled(Some(Err(Errno::SRCH))), Seen::Gone);
        for hidden in [Some(Err(Errno::PERM)), Some(Ok(())), None] {
            assert_eq!(signalled(hidden), Seen::Unknown);
        }
        assert_eq!(read_stat("7 (a) b) Z 1"), Seen::Gone);
        assert_eq!(read_stat(""), Seen::Unknown);
        assert_eq!(look_at(i32::MAX), Seen::Gone);
    }

    #[test]
    fn tells_a_living_process_from_one_that_has_gone() {
        let here = Host::here();
        let mut peer = Peer {
            incarnation: uuid::Uuid::nil(),
            boot_id: here.boot_id.clone(),
            pid_namespace: here.pid_namespace.clone(),
            pid: here.pid,
            process_start: here.process_start,
        };
        assert!(!here.knows_dead(&peer));
        peer.process_start += 1;
        assert!(here.knows_dead(&peer), "a reused pid is another process");
        peer.boot_id = "another boot".into();
        assert!(!here.knows_dead(&peer), "another machine's processes cannot be seen from here");
    }
}
