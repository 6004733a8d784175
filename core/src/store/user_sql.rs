//! What a user's own SQL may not do on a connection of the engine.

/// Said where a statement would end the transaction under the step.
pub(super) const NOT_YOURS: &str =
    "BEGIN, COMMIT, END and ROLLBACK are the engine's here: return from the step to commit, raise to roll back. Savepoints are yours to use.";

/// Said where a text holds more than one.
pub(super) const ONE_AT_A_TIME: &str = "One statement at a time: what follows the first semicolon is to be executed by itself.";

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

/// Whether more follows the first statement. SQLite's driver would run it all, and what ends the transaction may stand anywhere in it.
pub(super) fn is_several(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    // The last two tokens: a trigger's body holds semicolons, and ends behind one by the word `end`, as the shell of SQLite has it.
    let (mut before, mut last) = (String::new(), String::new());
    let (mut words, mut trigger, mut over, mut at) = (0, false, false, 0);
    while at < bytes.len() {
        let rest = &sql[at..];
        let (skipped, token) = match bytes[at] {
            b'-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), None),
            b'/' if rest.starts_with("/*") => (rest[2..].find("*/").map_or(rest.len(), |end| end + 4), None),
            space if space.is_ascii_whitespace() => (1, None),
            quote @ (b'\'' | b'"' | b'`') => (rest[1..].find(char::from(quote)).map_or(rest.len(), |end| end + 2), Some("")),
            b'[' => (rest.find(']').map_or(rest.len(), |end| end + 1), Some("")),
            letter if letter.is_ascii_alphabetic() || letter == b'_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (end, Some(&rest[..end]))
            }
            _ => {
                let end = rest.chars().next().map_or(1, char::len_utf8);
                (end, Some(&rest[..end]))
            }
        };
        at += skipped;
        let Some(token) = token.map(str::to_ascii_lowercase) else { continue };
        if token == ";" {
            over |= words > 0 && (!trigger || (last == "end" && before == ";"));
        } else if over {
            return true;
        } else {
            words += 1;
            trigger |= token == "trigger" && words <= 3 && (last == "create" || (before == "create" && matches!(last.as_str(), "temp" | "temporary")));
        }
        before = std::mem::replace(&mut last, token);
    }
    false
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

    #[test]
    fn what_follows_a_statement_is_found_outside_of_quotes_comments_and_triggers() {
        for sql in [
            "insert into t values (1); commit",
            "select ';'; select 1",
            "select 1 /* ; */ ; -- ;\n commit",
            "select \"a;b\", [c;d], `e;f`; end",
            "create trigger a after insert on t begin select 1; end; commit",
            "create temp trigger a after insert on t begin select case when 1 then 2 end; end; commit",
            "create table trigger_of (a); commit",
            "select 'it''s'; select 1",
        ] {
            assert!(is_several(sql), "{sql}");
        }
        for sql in [
            "select 1",
            "select 1;",
            ";; select 1 ; ; -- the end",
            "select ';', \"a;b\", [c;d], `e;f`",
            "insert into t values ('it''s; so')",
            "select 1 -- ; select 2",
            "select 1 /* ; select 2",
            "create trigger a after insert on t begin select 1; update t set a = 1; end;",
            "CREATE TEMPORARY TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; END",
            "select 'ä;ö', ü",
            "",
        ] {
            assert!(!is_several(sql), "{sql}");
        }
    }
}
