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

    /// Milliseconds before the attempt after `attempt` (from 1). `random` is in 0.0..1.0.
    pub fn back_off_ms(&self, attempt: i32, random: f64) -> i64 {
        let full = (self.initial_ms as f64 * self.factor.powi(attempt.saturating_sub(1))).min(self.max_ms as f64);
        (if self.jitter { full * random } else { full }) as i64
    }

    pub fn again(&self, attempt: i32) -> bool {
        attempt < self.max_attempts
    }
}

/// A policy as somebody asked for it; what it leaves out is the default's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialRetry {
    pub max_attempts: Option<i64>,
    pub initial_ms: Option<i64>,
    pub factor: Option<f64>,
    pub max_ms: Option<i64>,
    pub jitter: Option<bool>,
    pub timeout_ms: Option<i64>,
    pub at_most_once: Option<bool>,
}

impl PartialRetry {
    /// A RETRY record; None where the frame has null.
    pub fn read(r: &mut Reader<'_>) -> Result<Option<Self>, FrameError> {
        let Some(mut p) = r.opt_list()? else { return Ok(None) };
        Ok(Some(PartialRetry {
            max_attempts: p.opt_int()?,
            initial_ms: p.opt_ms()?,
            factor: p.opt_float()?,
            max_ms: p.opt_ms()?,
            jitter: p.opt_bool()?,
            timeout_ms: p.opt_ms()?,
            at_most_once: Some(p.bool()?),
        }))
    }

    /// What no retry could mean, in words.
    pub fn refused(&self) -> Option<String> {
        let whole = [("max_attempts", self.max_attempts), ("initial_ms", self.initial_ms), ("max_ms", self.max_ms), ("timeout_ms", self.timeout_ms)];
        let below = whole.into_iter().find(|(_, value)| value.is_some_and(|n| n < 0)).map(|(name, _)| name);
        below.or_else(|| self.factor.filter(|n| *n < 0.0).map(|_| "factor")).map(|name| format!("retry.{name} must not be below 0"))
    }

    /// A policy of retries that names no number of attempts means the default; a record that is there for its timeout or for `at_most_once` alone
    /// says nothing about retries, and without being asked nothing is retried.
    pub fn policy(&self) -> RetryPolicy {
        let d = RetryPolicy::default();
        let retries_named = self.initial_ms.is_some() || self.factor.is_some() || self.max_ms.is_some() || self.jitter.is_some();
        let only_bounds = self.timeout_ms.is_some() || self.at_most_once.unwrap_or(false);
        let attempts = if only_bounds && !retries_named { RetryPolicy::none().max_attempts } else { d.max_attempts };
        RetryPolicy {
            max_attempts: self.max_attempts.map_or(attempts, |n| n.clamp(1, i32::MAX.into()) as i32),
            initial_ms: self.initial_ms.unwrap_or(d.initial_ms).max(0),
            factor: self.factor.unwrap_or(d.factor).max(1.0),
            max_ms: self.max_ms.unwrap_or(d.max_ms).max(0),
            jitter: self.jitter.unwrap_or(d.jitter),
            timeout_ms: self.timeout_ms.filter(|t| *t > 0),
            at_most_once: self.at_most_once.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_alone_asks_for_no_retry() {
        let attempts = |asked: PartialRetry| asked.policy().max_attempts;
        assert_eq!(attempts(PartialRetry { timeout_ms: Some(5), ..PartialRetry::default() }), 1);
        assert_eq!(attempts(PartialRetry { timeout_ms: Some(5), factor: Some(2.0), ..PartialRetry::default() }), 5);
        assert_eq!(attempts(PartialRetry::default()), 5);
    }

    #[test]
    fn a_negative_number_is_refused_by_name() {
        let refused = |asked: PartialRetry| asked.refused();
        assert_eq!(refused(PartialRetry { max_ms: Some(-1), ..PartialRetry::default() }).as_deref(), Some("retry.max_ms must not be below 0"));
        assert_eq!(refused(PartialRetry { factor: Some(-0.5), ..PartialRetry::default() }).as_deref(), Some("retry.factor must not be below 0"));
        assert_eq!(refused(PartialRetry { max_attempts: Some(0), ..PartialRetry::default() }), None);
    }

    #[test]
    fn back_off_doubles_to_the_cap_and_jitter_stays_below_it() {
        let p = RetryPolicy { jitter: false, ..RetryPolicy::default() };
        assert_eq!([1, 2, 3, 7, 60].map(|n| p.back_off_ms(n, 0.5)), [1000, 2000, 4000, 60_000, 60_000]);
        assert_eq!(RetryPolicy::default().back_off_ms(2, 0.25), 500);
        assert!(RetryPolicy::default().again(4) && !RetryPolicy::default().again(5) && !RetryPolicy::none().again(1));
    }
}
