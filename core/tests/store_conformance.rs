//! What both stores promise the engine, written once. `cargo test -p everstep --test store_conformance -- [NAME..]` runs every check on
//! SQLite and, where PostgreSQL is installed, on a private cluster, each in a schema or file of its own.

#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/claims.rs"]
mod claims;
#[path = "../../tests/src/cluster.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod cluster;
#[path = "conformance/control.rs"]
mod control;
#[path = "conformance/fencing.rs"]
mod fencing;
#[path = "conformance/races.rs"]
mod races;
#[path = "conformance/starts.rs"]
mod starts;
#[path = "conformance/takeover.rs"]
mod takeover;
#[path = "conformance/transactions.rs"]
mod transactions;
#[path = "conformance/views.rs"]
mod views;
#[path = "conformance/waiting.rs"]
mod waiting;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use bench::{Bench, Place};

type Check = fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |bench| Box::pin($module::$name(bench)))),*]
    };
}

const CHECKS: &[(&str, Check)] = checks![
    fencing::steps_commit_and_read_back,
    fencing::stale_epoch_is_fenced,
    fencing::another_owner_is_fenced,
    fencing::lost_lease_fences_everything,
    fencing::another_token_is_adopted,
    fencing::unknown_outcomes_settle,
    fencing::a_bad_value_stands_alone,
    fencing::outcome_frees_and_wakes,
    fencing::attempts_are_kept,
    fencing::a_retry_leaves_what_waits_beside_the_failure,
    fencing::one_batch_of_many_kinds,
    fencing::lost_names_are_written_again,
    starts::existing_id_attaches,
    starts::conflicts_are_told,
    starts::tombstones_answer_purged,
    starts::born_claimed_needs_the_lease,
    starts::dedup_keys,
    starts::children_are_recorded,
    starts::children_that_a_rewind_has_forgotten,
    starts::children_of_a_run_ended_by_time_are_seen,
    waiting::message_before_and_after,
    waiting::events_wake_their_waiters,
    waiting::results_wake_their_waiters,
    waiting::release_looks_at_the_inbox,
    waiting::timers_wake,
    waiting::waits_on_nobody,
    claims::in_order_and_bounded,
    claims::every_queue_has_its_turn,
    claims::limited_queues_have_their_turn,
    claims::a_held_slot_is_kept,
    claims::history_comes_along,
    claims::queue_limits_hold,
    claims::key_limits_hold,
    claims::paused_queues_wait,
    claims::a_pause_changes_nothing_else_of_a_queue,
    claims::delayed_and_expired,
    claims::a_limit_counts_what_already_runs,
    claims::what_follows_stays_in_its_namespace,
    claims::given_back_first,
    claims::queues_change,
    takeover::the_dead_are_reaped,
    takeover::who_comes_back_can_be_reaped_again,
    takeover::only_crashes_without_progress_count,
    takeover::after_a_retry_progress_counts_anew,
    takeover::graceful_stop_hands_over,
    takeover::the_living_are_left_alone,
    takeover::a_session_that_is_gone_is_a_hint,
    control::cancel_at_once_or_asked,
    control::a_checkpoint_raced_with_cancel_is_refused,
    control::a_checkpoint_raced_with_rewind_is_refused,
    control::grace_and_deadline_end,
    control::resume_retry_rewind,
    control::blocked_runs_are_offered_once,
    control::offers_do_not_pile_up,
    control::lists_and_details,
    control::slow_steps_are_noted,
    control::a_table_meta_of_somebody_else_is_said,
    views::tell_what_the_tables_hold,
    views::have_the_documented_columns,
    transactions::commit_together_or_not_at_all,
    transactions::probe_tells,
    transactions::values_come_back,
    races::messages_against_releases,
    races::runs_that_message_one_another,
    races::claims_share_nothing,
    races::waits_against_outcomes,
    races::a_wait_against_an_end_in_one_statement,
    races::a_key_asked_for_while_its_run_ends,
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        CHECKS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let places = Place::all();
    let (mut passed, mut failed) = (0, Vec::new());
    for place in &places {
        for (name, check) in CHECKS {
            let full = format!("{}::{name}", place.name());
            if !wanted.is_empty() && !wanted.iter().any(|part| full.contains(part.as_str())) {
                continue;
            }
            let outcome = runtime.block_on(async {
                let bench = Arc::new(Bench::new(place).await);
                tokio::spawn(check(bench)).await
            });
            println!("test {full} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
            if outcome.is_ok() { passed += 1 } else { failed.push(full) }
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
