//! Crash points, takeovers and races: `faults [NAME..] [--except NAME] [--store S]`. Closing line: `N passed, N failed, N skipped`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use everstep_tests::cluster::Cluster;
use everstep_tests::faults::{Context, all};
use everstep_tests::worker::{Language, root};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[derive(Parser)]
struct Arguments {
    /// Only checks whose name contains one of these.
    names: Vec<String>,
    /// Not those whose name contains this.
    #[arg(long)]
    except: Option<String>,
    #[arg(long)]
    store: Option<String>,
    /// These are the same for every language: the engine is one. Default: the first.
    #[arg(long)]
    language: Option<String>,
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    #[arg(long)]
    list: bool,
}

const LIMIT: Duration = Duration::from_secs(900);

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
    let mut checks = all();
    checks.retain(|c| arguments.names.is_empty() || arguments.names.iter().any(|n| c.name.contains(n.as_str())));
    checks.retain(|c| arguments.except.as_ref().is_none_or(|n| !c.name.contains(n.as_str())));
    if arguments.list {
        checks.iter().for_each(|c| println!("{}", c.name));
        return Ok(true);
    }
    let languages = Language::all(&root())?;
    let language =
        languages.iter().find(|l| arguments.language.as_ref().is_none_or(|name| l.name == *name)).ok_or("no such language in tests/languages.toml")?;
    let cluster = Arc::new(tokio::task::spawn_blocking(|| Cluster::start(&[])).await.map_err(|e| e.to_string())??);
    let slots = Arc::new(Semaphore::new(arguments.jobs));
    let mut running = JoinSet::new();
    for check in checks {
        for store in check.stores.clone() {
            if arguments.store.as_deref().is_some_and(|w| w != store.name()) {
                continue;
            }
            let context = Context { language: language.clone(), store, cluster: cluster.clone() };
            let (check, slots) = (check.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let began = Instant::now();
                let result = tokio::time::timeout(LIMIT, check.run(context)).await.unwrap_or_else(|_| Err(format!("not over after {LIMIT:?}")));
                (format!("{} {}", store.name(), check.name), result, began.elapsed())
            });
        }
    }
    let (mut passed, mut failed) = (0, 0);
    while let Some(done) = running.join_next().await {
        let (what, result, took) = done.map_err(|e| format!("the runner itself failed: {e}"))?;
        match result {
            Ok(()) => {
                passed += 1;
                println!("ok    {what} ({:.1} s)", took.as_secs_f64());
            }
            Err(why) => {
                failed += 1;
                println!("FAIL  {what} ({:.1} s)\n      {}", took.as_secs_f64(), why.replace('\n', "\n      "));
            }
        }
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(failed == 0 && passed > 0)
}
