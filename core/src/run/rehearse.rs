//! `replay = "always"`: released at every wait, replayed before every step. Code between steps that is not free of effects, or that depends on something
//! that was not recorded, then shows in the first unit test and not in production.

use std::sync::Arc;

use super::exec::{Exec, ExecState, Phase};
use super::history::Place;
use super::verdict;
use crate::engine::{Engine, Outbox};
use crate::store::{Verdict, Write};

impl Exec {
    /// A step is about to run, and this execution has recorded something before it: give the run back, so that the next execution
    /// comes to this step by replay. None: run it now.
    pub fn replay_first(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, out: &mut Outbox) -> Option<Vec<u8>> {
        let shielded = st.calls.get(place).is_some_and(|c| c.shielded);
        let others_wait = st.calls.iter().all(|(p, c)| p == place || matches!(c.phase, Phase::Waiting(_)));
        if !engine.replays_always() || shielded || st.cancel.is_some() || !others_wait || !st.nothing_on_its_way() || st.next_done == self.first_done {
            return None;
        }
        st.calls.remove(place);
        self.stop(st, "suspended", "replayed before its next step, as replay=\"always\" asks", out);
        let exec = self.clone();
        engine.write(
            self.lane,
            Write::GiveBack { run: self.run, epoch: st.epoch },
            Box::new(move |engine, _, answer, _| {
                engine.forget(&exec);
                engine.claims.look();
                if !matches!(answer, Ok(Verdict::Committed)) {
                    // A cancel came first, or the lease went: if the run is still ours it is found there.
                    engine.spawn(|engine| async move { engine.reconcile().await });
                }
            }),
        );
        Some(verdict::stopped("suspended"))
    }
}

impl Engine {
    pub fn replays_always(&self) -> bool {
        self.config.replay == crate::engine::Replay::Always
    }

    /// Everything of this run waits, and the wait is the last its code has asked for. Where it has several paths of code, another may be on its way (the
    /// winner of a race), and the look of `run_releases` comes later.
    pub fn rehearse_release(self: &Arc<Self>, exec: &Arc<Exec>) {
        if self.replays_always() {
            let exec = exec.clone();
            self.spawn(move |engine| async move {
                engine.release(&exec, true);
            });
        }
    }
}
