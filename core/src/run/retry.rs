//! Retry policies of steps and runs: pure arithmetic; time and randomness come in as arguments.

use serde::{Deserialize, Serialize};

use crate::protocol::frame::{FrameError, Reader};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetryPolicy {
    pub max_attempts: i32,
    pub initial_ms: i64,
    pub factor: f64,
    pub max_ms: i64,
    pub jitter: bool,
    pub timeout_ms: Option<i64>,
    pub at_most_once: bool,
}

impl Default for RetryPolicy {
    /// What a policy says that names nothing: 5 attempts, 1 s doubling to a minute, full jitter.
    fn default() -> Self {
        RetryPolicy { max_attempts: 5, initial_ms: 1000, factor: 2.0, max_ms: 60_000, jitter: true, timeout_ms: None, at_most_once: false }
    }
}

impl RetryPolicy {
    /// No policy at all: one attempt.
    pub fn none() -> Self {
        RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }
    }

    /// Attempts where a record leaves the number out. A policy of retries that names no number means the default; a record that is there for its timeout
    /// or for `at_most_once` alone says nothing about retries, and without being asked nothing is retried.
    pub fn attempts_unless_named(retries_named: bool, only_bounds: bool) -> i32 {
        if only_bounds && !retries_named { Self::none().max_attempts } else { Self::default().max_attempts }
    }

    /// A RETRY record; null is [`RetryPolicy::none`].
    pub fn read(r: &mut Reader<'_>) -> Result<Self, FrameError> {
        let Some(mut p) = r.opt_list()? else {
            return Ok(Self::none());
        };
        let d = Self::default();
        let (attempts, initial, factor, max, jitter) = (p.opt_int()?, p.opt_ms()?, p.opt_float()?, p.opt_ms()?, p.opt_bool()?);
        let (timeout_ms, at_most_once) = (p.opt_ms()?.filter(|t| *t > 0), p.bool()?);
        let retries_named = initial.is_some() || factor.is_some() || max.is_some() || jitter.is_some();
        let attempts_unless_named = Self::attempts_unless_named(retries_named, timeout_ms.is_some() || at_most_once);
        Ok(RetryPolicy {
            max_attempts: attempts.map_or(attempts_unless_named, |n| n.clamp(1, i32::MAX.into()) as i32),
            initial_ms: initial.unwrap_or(d.initial_ms).max(0),
            factor: factor.unwrap_or(d.factor).max(1.0),
            max_ms: max.unwrap_or(d.max_ms).max(0),
            jitter: jitter.unwrap_or(d.jitter),
            timeout_ms,
            at_most_once,
        })
    }

    /// Milliseconds before the attempt after `attempt` (from 1). `random` is in 0.0..1.0.
    pub fn back_off_ms(&self, attempt: i32, random: f64) -> i64 {
        let full = (self.initial_ms as f64 * self.factor.powi(attempt.saturating_sub(1))).min(self.max_ms as f64);
        (if self.jitter { full * random } else { full }) as i64
    }

    pub fn again(&self, attempt: i32) -> bool {
        attempt < self.max_attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_alone_asks_for_no_retry() {
        assert_eq!(RetryPolicy::attempts_unless_named(false, true), 1);
        assert_eq!(RetryPolicy::attempts_unless_named(true, true), 5);
        assert_eq!(RetryPolicy::attempts_unless_named(false, false), 5);
    }

    #[test]
    fn back_off_doubles_to_the_cap_and_jitter_stays_below_it() {
        let p = RetryPolicy { jitter: false, ..RetryPolicy::default() };
        assert_eq!([1, 2, 3, 7, 60].map(|n| p.back_off_ms(n, 0.5)), [1000, 2000, 4000, 60_000, 60_000]);
        assert_eq!(RetryPolicy::default().back_off_ms(2, 0.25), 500);
        assert!(RetryPolicy::default().again(4) && !RetryPolicy::default().again(5) && !RetryPolicy::none().again(1));
    }
}
