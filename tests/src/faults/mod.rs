//! Faults that are too many or too exact to be data: every crash point, thousands of races, long strings of kills. Each is one check with
//! a name; `faults` (the program) runs them all, or those named.

mod crash_points;
mod fence;
mod load;
mod takeover;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::audit::Expect;
use crate::cluster::Cluster;
use crate::scenario::Store;
use crate::stage::{Plan, Stage};
use crate::worker::Language;

/// What a check gets: one language, one store, and a server it may use but not break.
#[derive(Clone)]
pub struct Context {
    pub language: Language,
    pub store: Store,
    pub cluster: Arc<Cluster>,
}

type Checked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

#[derive(Clone)]
pub struct Check {
    pub name: String,
    pub stores: Vec<Store>,
    run: Arc<dyn Fn(Context) -> Checked + Send + Sync>,
}

impl Check {
    fn new<F, R>(name: impl Into<String>, stores: &[Store], run: F) -> Check
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        Check { name: name.into(), stores: stores.to_vec(), run: Arc::new(move |context| Box::pin(run(context))) }
    }

    pub async fn run(&self, context: Context) -> Result<(), String> {
        (self.run)(context).await
    }
}

const BOTH: &[Store] = &[Store::Postgres, Store::Sqlite];
const POSTGRES: &[Store] = &[Store::Postgres];

pub fn all() -> Vec<Check> {
    let mut checks = crash_points::checks();
    checks.extend([
        Check::new("fence_holds_the_lease", BOTH, fence::lease),
        Check::new("fence_holds_the_run", BOTH, fence::run_row),
        Check::new("recorded_values_stand", BOTH, fence::conflict),
        Check::new("release_sees_the_inbox", BOTH, fence::inbox),
        Check::new("takeover_of_1000_runs", BOTH, takeover::of_a_thousand_runs),
        Check::new("poison_run_among_1000", POSTGRES, takeover::poison_among_a_thousand),
        Check::new("fifty_sleeps_and_ten_kills", BOTH, takeover::fifty_sleeps_and_ten_kills),
        Check::new("ten_thousand_message_release_races", BOTH, load::message_release_races),
        Check::new("two_hundred_runs_message_one_another", POSTGRES, load::runs_that_message_one_another),
        Check::new("ten_thousand_fan_outs_replayed", BOTH, load::fan_outs_replayed),
        Check::new("no_multixacts_under_load", POSTGRES, load::multixacts),
    ]);
    checks
}

impl Context {
    pub async fn stage(&self, engine: Value) -> Result<Stage, String> {
        let plan = Plan {
            languages: std::slice::from_ref(&self.language),
            store: self.store,
            shared: Some(self.cluster.clone()),
            proxy: false,
            pooler: false,
            engine,
        };
        Stage::set(plan).await
    }

    /// On a server nobody else uses: what is counted there is ours.
    pub async fn own_stage(&self, engine: Value) -> Result<Stage, String> {
        let plan = Plan { languages: std::slice::from_ref(&self.language), store: self.store, shared: None, proxy: false, pooler: false, engine };
        Stage::set(plan).await
    }

    /// Start a worker with this environment and launch it.
    pub async fn launch(&self, stage: &mut Stage, name: &str, engine: Value, extra: &[(&str, &str)]) -> Result<(), String> {
        let environment: Vec<(String, String)> = extra.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let worker = stage.spawn(name, &engine, &environment, None).await?;
        worker.call("launch", json!({})).await.map(drop).map_err(|e| format!("worker {name} did not launch: {e}\n{}", worker.errors()))
    }
}

/// The audit, as an error when it is not clean.
pub async fn clean(stage: &Stage, finished: bool) -> Result<(), String> {
    let report = stage.audit(Expect { finished, timer_slack_ms: 0, money: 0 }).await?;
    if report.is_clean() { Ok(()) } else { Err(format!("{report}\n{}", stage.errors())) }
}
