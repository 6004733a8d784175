//! Counters for `info`: cheap to keep, read by a person or a bench.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Counters {
    batches: AtomicU64,
    rows: AtomicU64,
    pub claims: AtomicU64,
    pub claimed: AtomicU64,
    /// Of a process without a lease, whether there is anything to claim.
    pub looks: AtomicU64,
    pub ticks: AtomicU64,
    pub leases_lost: AtomicU64,
    pub reaped: AtomicU64,
    pub hints: AtomicU64,
    pub released: AtomicU64,
}

impl Counters {
    pub fn batch(&self, rows: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn json(&self) -> serde_json::Value {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        serde_json::json!({
            "batches": get(&self.batches),
            "rows": get(&self.rows),
            "claims": get(&self.claims),
            "claimed": get(&self.claimed),
            "looks": get(&self.looks),
            "ticks": get(&self.ticks),
            "leases_lost": get(&self.leases_lost),
            "reaped": get(&self.reaped),
            "hints": get(&self.hints),
            "released": get(&self.released),
        })
    }
}
