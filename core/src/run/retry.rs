//! Retry policies of steps and runs: pure arithmetic; time and randomness come in as arguments.

use serde::{Deserialize, Serialize};

use crate::protocol::frame::{FrameError, Reader, bounded_ms};

#[derive(Debug, Clone)]
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialRetry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
            at_most_once: p.bool()?.then_some(true),
        }))
    }

    /// What no retry could mean, in words.
    pub fn refused(&self) -> Option<String> {
        let whole =
            [("max_attempts", 1, self.max_attempts), ("initial_ms", 0, self.initial_ms), ("max_ms", 0, self.max_ms), ("timeout_ms", 0, self.timeout_ms)];
        let below = whole.into_iter().find(|(_, least, value)| value.is_some_and(|n| n < *least)).map(|(name, least, _)| (name, least));
        let below = below.or_else(|| self.factor.filter(|n| n.is_nan() || *n < 1.0).map(|_| ("factor", 1)));
        let below = below.map(|(name, least)| format!("retry.{name} must not be below {least}"));
        below.or_else(|| self.factor.filter(|n| n.is_infinite()).map(|_| "retry.factor must be a finite number".into()))
    }

    /// One that came as JSON, with the longest durations that a frame may hold.
    pub fn bounded(self) -> PartialRetry {
        let [initial_ms, max_ms, timeout_ms] = [self.initial_ms, self.max_ms, self.timeout_ms].map(|ms| ms.map(bounded_ms));
        PartialRetry { initial_ms, max_ms, timeout_ms, ..self }
    }

    /// This over another: what is left out here is the other's.
    pub fn over(self, other: &PartialRetry) -> PartialRetry {
        PartialRetry {
            max_attempts: self.max_attempts.or(other.max_attempts),
            initial_ms: self.initial_ms.or(other.initial_ms),
            factor: self.factor.or(other.factor),
            max_ms: self.max_ms.or(other.max_ms),
            jitter: self.jitter.or(other.jitter),
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            at_most_once: self.at_most_once.or(other.at_most_once),
        }
    }

    /// What a start asks for, over what was registered.
    pub fn merged(asked: Option<PartialRetry>, registered: Option<&PartialRetry>) -> Option<PartialRetry> {
        match (asked, registered) {
            (Some(asked), Some(registered)) => Some(asked.over(registered)),
            (asked, registered) => asked.or_else(|| registered.cloned()),
        }
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
        for factor in [0.5, -1.0, f64::NAN] {
            assert_eq!(refused(PartialRetry { factor: Some(factor), ..PartialRetry::default() }).as_deref(), Some("retry.factor must not be below 1"));
        }
        let endless = PartialRetry { factor: Some(f64::INFINITY), ..PartialRetry::default() };
        assert_eq!(refused(endless).as_deref(), Some("retry.factor must be a finite number"));
        assert_eq!(refused(PartialRetry { max_attempts: Some(0), ..PartialRetry::default() }).as_deref(), Some("retry.max_attempts must not be below 1"));
        assert_eq!(refused(PartialRetry { max_attempts: Some(1), factor: Some(1.0), ..PartialRetry::default() }), None);
    }

    #[test]
    fn a_start_changes_only_what_it_names() {
        let registered = PartialRetry { max_attempts: Some(7), at_most_once: Some(true), ..PartialRetry::default() };
        let merged = |asked: PartialRetry| PartialRetry::merged(Some(asked), Some(&registered)).unwrap().policy();
        let policy = merged(PartialRetry { timeout_ms: Some(5), ..PartialRetry::default() });
        assert_eq!((policy.max_attempts, policy.timeout_ms, policy.at_most_once), (7, Some(5), true));
        assert_eq!(merged(PartialRetry { max_attempts: Some(2), ..PartialRetry::default() }).max_attempts, 2);
        assert!(PartialRetry::merged(None, None).is_none());
    }

    #[test]
    fn back_off_doubles_to_the_cap_and_jitter_stays_below_it() {
        let p = RetryPolicy { jitter: false, ..RetryPolicy::default() };
        assert_eq!([1, 2, 3, 7, 60].map(|n| p.back_off_ms(n, 0.5)), [1000, 2000, 4000, 60_000, 60_000]);
        assert_eq!(RetryPolicy::default().back_off_ms(2, 0.25), 500);
        assert!(RetryPolicy::default().again(4) && !RetryPolicy::default().again(5) && !RetryPolicy::none().again(1));
    }
}
