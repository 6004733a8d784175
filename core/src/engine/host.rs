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
            process_start: process_start(pid).unwrap_or(0),
        }
    }

    /// Whether that worker's process is known to have gone. Only a process of this boot and pid namespace can be judged from here.
    pub fn knows_dead(&self, peer: &Peer) -> bool {
        if self.boot_id.is_empty() || self.process_start == 0 || peer.boot_id != self.boot_id || peer.pid_namespace != self.pid_namespace {
            return false;
        }
        process_start(peer.pid) != Some(peer.process_start)
    }
}

/// Clock ticks after boot at which a process started; None when there is no such process, or only its zombie.
fn process_start(pid: i32) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may hold anything; fields are counted behind the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
