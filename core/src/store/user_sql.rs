//! What a user's own SQL may not do on a connection of the engine.

/// Said where a statement would end the transaction under the step.
pub(super) const NOT_YOURS: &str =
    "BEGIN, COMMIT, END and ROLLBACK are the engine's here: return from the step to commit, raise to roll back. Savepoints are yours to use.";

/// Whether this statement would begin or end a transaction: rows would then be committed without the record of their step.
pub(super) fn ends_transaction(sql: &str) -> bool {
    let mut rest = sql.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after).trim_start();
        } else if let Some(empty) = rest.strip_prefix(';') {
            rest = empty.trim_start();
        } else {
            break;
        }
    }
    let mut words = rest.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
    match words.next().as_deref().unwrap_or_default() {
        "begin" | "commit" | "end" | "abort" | "start" => true,
        "prepare" => words.next().as_deref() == Some("transaction"),
        "rollback" => !words.any(|word| word == "to"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_transaction_is_found_behind_comments_and_savepoints_are_free() {
        for sql in
            ["COMMIT", " commit;", "-- so\n rollback", "/* a */ End", "; begin", "start transaction", "abort", "PREPARE TRANSACTION 'x'", "commit and chain"]
        {
            assert!(ends_transaction(sql), "{sql}");
        }
        for sql in
            ["savepoint a", "rollback to a", "ROLLBACK\nTO SAVEPOINT a", "release a", "prepare x as select 1", "select 'commit'", "update t set a = 'end'", ""]
        {
            assert!(!ends_transaction(sql), "{sql}");
        }
    }
}
