//! Load under a seeded schedule of faults, then a quiet phase, then the audit: `chaos --seconds 60 --seed 1 [--store sqlite]`.
//! The schedule is printed as it happens; the same seed gives the same one. Closing line: `N passed, N failed, N skipped`.

use std::process::ExitCode;

use clap::Parser;
use everstep_tests::chaos::{Settings, run};
use everstep_tests::scenario::Store;
use everstep_tests::worker::{Language, root};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Default: 3, or one a language.
    #[arg(long)]
    workers: Option<usize>,
    /// Names joined by commas. Default: all of tests/languages.toml.
    #[arg(long)]
    languages: Option<String>,
    #[arg(long, default_value = "postgres")]
    store: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let store = match arguments.store.as_str() {
        "postgres" => Store::Postgres,
        "sqlite" => Store::Sqlite,
        other => {
            eprintln!("unknown store {other}: postgres or sqlite");
            return ExitCode::FAILURE;
        }
    };
    let languages = match Language::chosen(&root(), arguments.languages.as_deref()) {
        Ok(languages) => languages,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let settings = Settings { seconds: arguments.seconds, seed: arguments.seed, workers: arguments.workers.unwrap_or(3.max(languages.len())), store };
    match run(&languages, &settings).await {
        Ok(()) => {
            println!("1 passed, 0 failed, 0 skipped");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("{why}\nplay it again with --seed {} --seconds {}\n0 passed, 1 failed, 0 skipped", settings.seed, settings.seconds);
            ExitCode::FAILURE
        }
    }
}
