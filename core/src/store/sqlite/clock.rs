//! Whether leases may be judged by the time of day. They are kept in it, and it jumps: when the machine wakes from sleep, or when its clock is put right.
//! Then the leases of all the living are out at once, and none of them has had time to say that it lives. The clock that only measures does not jump.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// When it was last looked at, by both.
    last: Option<(Instant, i64)>,
    /// After a jump everybody has a whole lease for his next beat.
    fair_from: Option<Instant>,
}

impl Clock {
    /// Look at both clocks; how long it is until what is out may be taken for dead. `wall_us`: the time leases are judged by.
    pub(super) fn unfair_for(&mut self, now: Instant, wall_us: i64, lease: Duration) -> Duration {
        if let Some((at, wall)) = self.last {
            let passed = now.saturating_duration_since(at) + lease / 4;
            if wall_us.saturating_sub(wall) > i64::try_from(passed.as_micros()).unwrap_or(i64::MAX) {
                self.fair_from = Some(now + lease);
            }
        }
        self.last = Some((now, wall_us));
        self.fair_from.map_or(Duration::ZERO, |from| from.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    #[test]
    fn after_a_jump_of_the_clock_nobody_is_judged_for_a_lease() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::default();
        let mut look = |passed: u32, wall_s: i64| clock.unfair_for(start + second * passed, wall_s * 1_000_000, LEASE);
        assert_eq!(look(0, 1000), Duration::ZERO);
        assert_eq!(look(3, 1003), Duration::ZERO);
        // The machine slept for an hour: only one of the clocks knows.
        assert_eq!(look(4, 4604), LEASE);
        assert_eq!(look(7, 4607), second * 7);
        assert_eq!(look(14, 4614), Duration::ZERO);
        // Put back, leases only look longer.
        assert_eq!(look(15, 4000), Duration::ZERO);
        assert_eq!(look(45, 4031), Duration::ZERO, "so far it may be off");
    }
}
