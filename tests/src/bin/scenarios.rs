//! Every scenario, for every language with a conformance worker, and those between languages for every ordered pair, on every store it names. Closing line: `N passed, N failed, N skipped`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use everstep_tests::cluster::Cluster;
use everstep_tests::runner::play;
use everstep_tests::scenario::{Scenario, Store};
use everstep_tests::worker::{Language, root};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[derive(Parser)]
struct Arguments {
    /// Only scenarios whose name contains one of these.
    names: Vec<String>,
    /// One language, or an ordered pair (`python+node`) for the scenarios between languages. Default: each, and every pair.
    #[arg(long)]
    language: Option<String>,
    #[arg(long)]
    store: Option<String>,
    /// Only on PostgreSQL, each behind a pooler in transaction mode.
    #[arg(long)]
    pooled: bool,
    /// Scenarios at one time. They mostly wait: for leases to end and servers to come back.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// How often each.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Write what came out as JSON: the table of languages and features is made from it.
    #[arg(long)]
    results: Option<std::path::PathBuf>,
}

/// No scenario needs this long, whatever hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// One scenario with those who play it: one language, or the first and the second of a pair.
struct Cast {
    scenario: Arc<Scenario>,
    languages: Vec<Language>,
    store: Store,
}

impl Cast {
    fn speaks(&self) -> String {
        self.languages.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join("+")
    }

    fn what(&self) -> String {
        format!("{} {} {}", self.speaks(), self.store.name(), self.scenario.name)
    }

    /// What the scenario needs and one of them refuses by design.
    fn lacks(&self) -> Option<String> {
        let lacking = |l: &Language| self.scenario.needs.iter().find(|n| l.lacks.contains(n)).map(|need| format!("{} has no {need}", l.name));
        self.languages.iter().find_map(lacking)
    }
}

struct Outcome {
    cast: Cast,
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

/// Every language in every scenario, and every ordered pair in those between languages.
fn casts(arguments: &Arguments, root: &Path) -> Result<Vec<Cast>, String> {
    let languages = Language::all(root)?;
    let alone: Vec<Vec<Language>> = languages.iter().map(|l| vec![l.clone()]).collect();
    let pairs: Vec<Vec<Language>> = languages
        .iter()
        .flat_map(|first| languages.iter().filter(move |second| second.name != first.name).map(move |second| vec![first.clone(), second.clone()]))
        .collect();
    let mut casts = Vec::new();
    for (directory, companies) in [("tests/scenarios", alone), ("tests/scenarios/between", pairs)] {
        for scenario in Scenario::load_all(&root.join(directory))?.into_iter().map(Arc::new) {
            for languages in &companies {
                casts.extend(scenario.stores.iter().map(|store| Cast { scenario: scenario.clone(), languages: languages.clone(), store: *store }));
            }
        }
    }
    casts.retain(|c| arguments.names.is_empty() || arguments.names.iter().any(|n| c.scenario.name.contains(n.as_str())));
    casts.retain(|c| arguments.language.as_ref().is_none_or(|name| c.speaks() == *name));
    casts.retain(|c| arguments.store.as_deref().is_none_or(|w| w == c.store.name()));
    casts.retain(|c| !arguments.pooled || c.store == Store::Postgres);
    Ok(casts)
}

async fn run(arguments: Arguments) -> Result<bool, String> {
    let root = root();
    let gaps = std::fs::read_to_string(root.join("tests/known_gaps.txt")).map_err(|e| format!("tests/known_gaps.txt: {e}"))?;
    let gaps: BTreeSet<String> = gaps.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string).collect();
    let (meant, refused): (Vec<_>, Vec<_>) = casts(&arguments, &root)?.into_iter().partition(|cast| cast.lacks().is_none());

    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.map_err(|e| e.to_string())??;
    let cluster = Arc::new(cluster);
    let slots = Arc::new(Semaphore::new(arguments.jobs));
    let mut running = JoinSet::new();
    for cast in meant {
        for _ in 0..arguments.repeat {
            let cast = Cast { scenario: cast.scenario.clone(), languages: cast.languages.clone(), store: cast.store };
            let (cluster, slots) = (cluster.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await;
                one(cast, arguments.pooled, cluster).await
            });
        }
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut results = Vec::new();
    for cast in refused {
        skipped += 1;
        println!("none  {}: {}", cast.what(), cast.lacks().unwrap_or_default());
    }
    while let Some(done) = running.join_next().await {
        let Outcome { cast, result, took } = done.map_err(|e| format!("the runner itself failed: {e}"))?;
        let (what, seconds) = (cast.what(), took.as_secs_f64());
        results.push(json!({
            "language": cast.speaks(), "store": cast.store.name(), "scenario": cast.scenario.name, "features": cast.scenario.features, "passed": result.is_ok(),
        }));
        match (gaps.contains(&what), result) {
            (false, Ok(())) => {
                passed += 1;
                println!("ok    {what} ({seconds:.1} s)");
            }
            (false, Err(why)) => {
                failed += 1;
                println!("FAIL  {what} ({seconds:.1} s)\n      {}", why.replace('\n', "\n      "));
            }
            (true, Err(_)) => {
                skipped += 1;
                println!("gap   {what}");
            }
            (true, Ok(())) => {
                failed += 1;
                println!("FAIL  {what}: listed in tests/known_gaps.txt and passes; take it off the list");
            }
        }
    }
    if let Some(path) = &arguments.results {
        std::fs::write(path, serde_json::Value::from(results).to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed > 0)
}

async fn one(cast: Cast, pooled: bool, cluster: Arc<Cluster>) -> Outcome {
    let began = Instant::now();
    let result = match tokio::time::timeout(LIMIT, play(&cast.scenario, &cast.languages, cast.store, pooled, cluster)).await {
        Ok(result) => result,
        Err(_) => Err(format!("not over after {LIMIT:?}")),
    };
    Outcome { cast, result, took: began.elapsed() }
}
