//! Every scenario, for every language with a conformance worker, on every store it names. Closing line: `N passed, N failed, N skipped`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use everstep_tests::cluster::Cluster;
use everstep_tests::runner::play;
use everstep_tests::scenario::{Scenario, Store};
use everstep_tests::worker::{Language, root};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[derive(Parser)]
struct Arguments {
    /// Only scenarios whose name contains one of these.
    names: Vec<String>,
    #[arg(long)]
    language: Option<String>,
    #[arg(long)]
    store: Option<String>,
    /// Scenarios at one time.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// How often each.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
}

/// No scenario needs this long, whatever hangs.
const LIMIT: Duration = Duration::from_secs(120);

struct Outcome {
    what: String,
    result: Result<(), String>,
    took: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, String> {
    let root = root();
    let mut scenarios = Scenario::load_all(&root.join("tests/scenarios"))?;
    scenarios.retain(|s| arguments.names.is_empty() || arguments.names.iter().any(|n| s.name.contains(n.as_str())));
    let mut languages = Language::all(&root)?;
    languages.retain(|l| arguments.language.as_ref().is_none_or(|name| l.name == *name));
    let gaps = std::fs::read_to_string(root.join("tests/known_gaps.txt")).map_err(|e| format!("tests/known_gaps.txt: {e}"))?;
    let gaps: BTreeSet<String> = gaps.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string).collect();

    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.map_err(|e| e.to_string())??;
    let cluster = Arc::new(cluster);
    let slots = Arc::new(Semaphore::new(arguments.jobs));
    let mut running = JoinSet::new();
    for scenario in scenarios.into_iter().map(Arc::new) {
        for language in &languages {
            for store in scenario.stores.iter().copied().filter(|s| arguments.store.as_deref().is_none_or(|w| w == s.name())) {
                for _ in 0..arguments.repeat {
                    let (scenario, language, cluster, slots) = (scenario.clone(), language.clone(), cluster.clone(), slots.clone());
                    running.spawn(async move {
                        let _slot = slots.acquire_owned().await;
                        one(&scenario, &language, store, cluster).await
                    });
                }
            }
        }
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    while let Some(done) = running.join_next().await {
        let outcome = done.map_err(|e| format!("the runner itself failed: {e}"))?;
        let seconds = outcome.took.as_secs_f64();
        match (gaps.contains(&outcome.what), outcome.result) {
            (false, Ok(())) => {
                passed += 1;
                println!("ok    {} ({seconds:.1} s)", outcome.what);
            }
            (false, Err(why)) => {
                failed += 1;
                println!("FAIL  {} ({seconds:.1} s)\n      {}", outcome.what, why.replace('\n', "\n      "));
            }
            (true, Err(_)) => {
                skipped += 1;
                println!("gap   {}", outcome.what);
            }
            (true, Ok(())) => {
                failed += 1;
                println!("FAIL  {}: listed in tests/known_gaps.txt and passes; take it off the list", outcome.what);
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed > 0)
}

async fn one(scenario: &Scenario, language: &Language, store: Store, cluster: Arc<Cluster>) -> Outcome {
    let what = format!("{} {} {}", language.name, store.name(), scenario.name);
    let began = Instant::now();
    let lacking = scenario.needs.iter().find(|n| language.lacks.contains(n));
    let result = match lacking {
        Some(need) => Err(format!("{} lacks {need}", language.name)),
        None => match tokio::time::timeout(LIMIT, play(scenario, language, store, cluster)).await {
            Ok(result) => result,
            Err(_) => Err(format!("not over after {LIMIT:?}")),
        },
    };
    Outcome { what, result, took: began.elapsed() }
}
