//! The auditor by itself: `audit --database URL [--schema everstep] [--log FILE] [--finished]`. Exit code 1 when a promise is broken.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use everstep_tests::audit::{Expect, audit};
use everstep_tests::database::Database;
use everstep_tests::event_log::EventLog;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    database: String,
    #[arg(long, default_value = "everstep")]
    schema: String,
    /// The event log the workers' user functions wrote.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Everything should be over: what is not terminal or blocked is lost.
    #[arg(long)]
    finished: bool,
    /// Report timers overdue by more than this.
    #[arg(long, default_value_t = 0)]
    timer_slack_ms: i64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let expect = Expect { finished: arguments.finished, timer_slack_ms: arguments.timer_slack_ms, money: 0 };
    let log = arguments.log.as_deref().map(EventLog::at);
    let mut database = match Database::open(&arguments.database, &arguments.schema).await {
        Ok(database) => database,
        // The driver's text may hold the URL: its password stays out of our output.
        Err(e) => {
            eprintln!("cannot open the database: {}", e.as_database_error().map_or("no connection".to_string(), |e| e.message().to_string()));
            return ExitCode::FAILURE;
        }
    };
    match audit(&mut database, log.as_ref(), expect).await {
        Ok(report) => {
            println!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
