//! Named crash points. The suite runs its workload once per (name, hit) with `EVERSTEP_CRASH_AT=name:hit` and expects the invariants to
//! hold after the abort. Without feature `failpoints` nothing of this is in the program.

/// Every crash point there is, one a line, so that the suite can enumerate them. `failpoint!` refuses a name that is not here.
pub const NAMES: &[&str] = &[
    "engine.register.after",
    "engine.claim.after",
    "engine.children.before",
    "engine.children.after",
    "engine.lane.before_commit",
    "engine.lane.after_commit",
    "engine.transaction.committed",
    "store.register.before",
    "store.register.after",
    "store.commit.before",
    "store.commit.locked",
    "store.commit.written",
    "store.commit.after",
    "store.claim.before",
    "store.claim.after",
    "store.reap.before",
    "store.reap.after",
    "store.orphans.after",
    "store.timers.after",
    "store.cancel.after",
    "store.transaction.before",
    "store.transaction.after",
    "store.migrate.step",
];

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    fn target() -> Option<&'static (String, u64)> {
        TARGET
            .get_or_init(|| {
                let text = std::env::var("EVERSTEP_CRASH_AT").ok()?;
                let (name, hit) = text.rsplit_once(':')?;
                Some((name.to_string(), hit.parse().ok()?))
            })
            .as_ref()
    }

    pub fn pass(name: &'static str) {
        debug_assert!(super::NAMES.contains(&name), "crash point {name} is not in failpoint::NAMES");
        if let Some((wanted, hit)) = target()
            && wanted == name
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *hit
        {
            // abort, not exit: no destructor may tidy up what a killed process would leave behind.
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::pass;

/// `failpoint!("name")`: abort here on the pass the environment asks for.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// Safety mechanisms the suite can switch off (`EVERSTEP_MUTATE=name`) to see that it notices. Only in builds with feature `mutations`.
pub const MUTATIONS: &[&str] = &[
    // The lease row is not locked and not required.
    "fence.lease",
    // The run row is not locked and its owner and epoch not required.
    "fence.run",
    // A step row that stands is overwritten instead of adopted.
    "on_conflict",
    // A reaper that has itself just reconnected does not wait.
    "outage_grace",
    // A release does not compare the inbox.
    "inbox",
    // A takeover counts as a crash whatever was recorded since the one before.
    "crash_mark",
];

#[cfg(feature = "mutations")]
pub fn mutated(name: &'static str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!(MUTATIONS.contains(&name), "mutation {name} is not in failpoint::MUTATIONS");
    CHOSEN.get_or_init(|| std::env::var("EVERSTEP_MUTATE").ok()).as_deref() == Some(name)
}

#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_name: &'static str) -> bool {
    false
}
