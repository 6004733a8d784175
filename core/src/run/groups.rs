//! `all`, `map`, `any`, `race`: a group takes one place in its branch and opens child branches below it.

use std::sync::Arc;

use super::begin::{Asked, Entered, Recorded};
use super::exec::{Exec, Phase, under};
use super::verdict;
use crate::engine::error::Result;
use crate::engine::{Engine, Outbox};
use crate::protocol::ops::kind;
use crate::store::{Effect, Payload};

impl Exec {
    pub fn begin_group(self: &Arc<Self>, engine: &Arc<Engine>, asked: Asked<'_>, decided: bool, out: &mut Outbox) -> Result<Vec<u8>> {
        let mut st = self.lock();
        let branch = asked.branch.to_owned();
        st.concurrent = true;
        if !decided {
            // `all` and `map` have nothing to record: every branch runs again on replay.
            if let Some(why) = st.stopped {
                return Ok(verdict::stopped(why));
            }
            if st.branch_closed(&branch) {
                return Ok(verdict::stopped("branch_closed"));
            }
            let place = st.next_place(&branch);
            return Ok(verdict::run(place.1, 1, ""));
        }
        let seq = st.peek_place(&branch).1;
        let winner = st.history.get(&(branch.as_str().into(), seq)).map(|r| winner_branch(&branch, seq, &r.output.data));
        match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => {
                if let Some(winner) = winner {
                    let group = format!("{branch}/{seq}");
                    st.history.drop_branches(|b| under(b, &group) && !under(b, &winner));
                    st.close_group(group, winner);
                }
                Ok(frame)
            }
            Entered::Live(place) => {
                if let Some(call) = st.calls.remove(&place) {
                    st.groups.insert(place.clone(), call);
                }
                Ok(verdict::run(place.1, 1, ""))
            }
        }
    }

    /// The first branch has settled. Its record decides for every replay; the others have lost and are not waited for.
    pub fn finish_group(self: &Arc<Self>, engine: &Arc<Engine>, branch: &str, seq: i32, winner: &str, token: u64, out: &mut Outbox) {
        let mut st = self.lock();
        if let Some(why) = st.stopped {
            return out.complete(&self.client, token, verdict::stopped(why));
        }
        let group = format!("{branch}/{seq}");
        let child = winner.strip_prefix(&format!("{group}/")).unwrap_or(winner).to_owned();
        let Some((place, mut call)) = st.groups.remove_entry(&(branch.into(), seq)) else {
            return out.complete(&self.client, token, verdict::stopped("superseded"));
        };
        let mut effects = Vec::new();
        for lost in st.close_group(group.clone(), format!("{group}/{child}")) {
            if let Some(call) = st.calls.remove(&lost) {
                engine.roll_back_of(self.id, &lost);
                engine.timers.forget_call(self.id, &lost);
                let opening = matches!(call.phase, Phase::Opening) && matches!(call.kind, kind::SLEEP | kind::RECEIVE | kind::EVENT | kind::RESULT);
                if opening || matches!(call.phase, Phase::Waiting(_)) {
                    // Else a run that races a sleep again and again has a row for each, read whenever it is claimed.
                    effects.push(Effect::CloseWaitOf(self.position(&lost)));
                }
                if let Phase::InTransaction { done, .. } = call.phase {
                    // Nobody hears any more how it ends, and the winner's own completion stands behind its number.
                    self.give_up_number(&mut st, done, out);
                }
                out.complete(&self.client, call.token, verdict::stopped("branch_closed"));
            }
            st.history.forget_waiting(&lost);
        }
        call.token = token;
        call.kind = kind::GROUP;
        call.phase = Phase::Opening;
        st.calls.insert(place.clone(), call);
        let output = Payload::json(winner_json(&child).into_bytes());
        self.record(engine, &mut st, &place, Recorded { failed: false, output, host_bytes: false, effects });
    }
}

/// "2" is index 2; "k:paris" is key "paris".
fn winner_json(child: &str) -> String {
    match child.strip_prefix("k:") {
        Some(key) => serde_json::Value::from(key).to_string(),
        None => child.parse::<u32>().map_or_else(|_| serde_json::Value::from(child).to_string(), |i| i.to_string()),
    }
}

fn winner_branch(branch: &str, seq: i32, recorded: &[u8]) -> String {
    match serde_json::from_slice(recorded) {
        Ok(serde_json::Value::String(key)) => format!("{branch}/{seq}/k:{key}"),
        Ok(index) => format!("{branch}/{seq}/{index}"),
        Err(_) => format!("{branch}/{seq}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked, recorded};
    use crate::protocol::frame::Reader;
    use crate::protocol::ops;
    use crate::store::{CancelRequest, RunState, Write};

    /// The first execution was at the race and beside it recorded a step; clean-up that followed at once would take the step's place.
    #[test]
    fn a_cancel_is_not_seen_at_a_race_ahead_of_what_is_recorded() {
        let h = ByHand::open(true);
        let exec = h.claim(|run| {
            run.state = RunState::Cancelling;
            run.cancel = Some(CancelRequest { by: "someone".into(), why: "no more".into(), grace_left_ms: 60_000 });
            run.steps = vec![crate::store::StepRecord { done: 0, seen: 0, ..recorded(1, b"1") }];
        });
        let mut out = Outbox::default();
        let race = exec.begin_group(&h.engine, asked("", 1, kind::GROUP, "race"), true, &mut out).unwrap();
        assert_eq!(Reader::new(&race).int().unwrap(), ops::verdict::RUN);
        let written = h.commit();
        assert!(!written.iter().any(|write| matches!(write, Write::Step { .. })), "the cancel has not been seen yet");
        // What is called in its branch hears of it in its turn: behind the step that is recorded.
        let first = exec.begin_step(&h.engine, asked("/0/0", 2, kind::STEP, "f"), &mut out).unwrap();
        assert_eq!(Reader::new(&first).int().unwrap(), ops::verdict::PENDING);
    }

    #[test]
    fn winners_survive_the_trip_through_the_record() {
        for (child, branch) in [("2", "/4/2"), ("k:paris", "/4/k:paris"), ("k:7", "/4/k:7")] {
            assert_eq!(winner_branch("", 4, winner_json(child).as_bytes()), branch);
        }
    }
}
