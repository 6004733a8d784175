//! Check the checker: each safety mechanism is switched off in turn (`EVERSTEP_MUTATE`, builds with feature `mutations`), and the check
//! that guards it must fail. Closing line: `N passed, N failed, N skipped`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

struct Mutation {
    name: &'static str,
    /// Program of this suite, check, store.
    caught_by: &'static [(&'static str, &'static str, &'static str)],
}

/// Workers inherit the environment, so a mutation reaches the engine wherever it runs.
const MUTATIONS: &[Mutation] = &[
    Mutation { name: "fence.lease", caught_by: &[("faults", "fence_holds_the_lease", "postgres"), ("faults", "fence_holds_the_lease", "sqlite")] },
    // Not by `r02_checkpoint_raced_with_rewind_and_cancel`: a worker that hears of the rewind before its step ends writes nothing stale in any case.
    Mutation { name: "fence.run", caught_by: &[("faults", "fence_holds_the_run", "postgres"), ("faults", "fence_holds_the_run", "sqlite")] },
    Mutation { name: "on_conflict", caught_by: &[("faults", "recorded_values_stand", "postgres"), ("faults", "recorded_values_stand", "sqlite")] },
    Mutation { name: "outage_grace", caught_by: &[("scenarios", "r03_server_stopped_for_three_leases", "postgres")] },
    Mutation {
        name: "inbox",
        caught_by: &[
            ("faults", "release_sees_the_inbox", "postgres"),
            ("faults", "release_sees_the_inbox", "sqlite"),
            ("faults", "ten_thousand_message_release_races", "postgres"),
            ("faults", "ten_thousand_message_release_races", "sqlite"),
        ],
    },
    Mutation { name: "crash_mark", caught_by: &[("faults", "fifty_sleeps_and_ten_kills", "postgres"), ("faults", "fifty_sleeps_and_ten_kills", "sqlite")] },
];

fn main() -> ExitCode {
    let Some(directory) = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_path_buf)) else {
        eprintln!("this program does not know where it is");
        return ExitCode::FAILURE;
    };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (mut passed, mut failed) = (0, 0);
    for mutation in MUTATIONS.iter().filter(|m| wanted.is_empty() || wanted.iter().any(|w| w == m.name)) {
        for (program, check, store) in mutation.caught_by {
            match caught(&directory, mutation.name, program, check, store) {
                Ok(finding) => {
                    passed += 1;
                    println!("ok    without {}, {check} on {store} fails: {finding}", mutation.name);
                }
                Err(why) => {
                    failed += 1;
                    println!("FAIL  without {}, {check} on {store}: {why}", mutation.name);
                }
            }
        }
    }
    let listed: BTreeSet<&str> = MUTATIONS.iter().map(|m| m.name).collect();
    for name in everstep::failpoint::MUTATIONS.iter().filter(|n| !listed.contains(**n)) {
        failed += 1;
        println!("FAIL  no check guards mutation {name}");
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the check found, as its first line says it. That it ran and failed is what counts: a check that could not start proves nothing.
fn caught(directory: &Path, mutation: &str, program: &str, check: &str, store: &str) -> Result<String, String> {
    let path: PathBuf = directory.join(program);
    // The engine is one: what one language's worker shows, all would.
    let language: &[&str] = if program == "scenarios" { &["--language", "python"] } else { &[] };
    let output = Command::new(&path)
        .args([check, "--store", store])
        .args(language)
        .env("EVERSTEP_MUTATE", mutation)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().last() {
        Some("0 passed, 1 failed, 0 skipped") => {
            let mut lines = text.lines().skip_while(|l| !l.starts_with("FAIL")).skip(1);
            Ok(lines.next().unwrap_or("no reason given").trim().chars().take(160).collect())
        }
        Some("1 passed, 0 failed, 0 skipped") => Err("nothing was noticed".into()),
        _ => Err(format!("the check did not run: {text}{}", String::from_utf8_lossy(&output.stderr))),
    }
}
