//! The invariants as the database shows them.

use std::collections::{HashMap, HashSet};

use super::{Expect, Report};
use crate::database::{Database, Text};
use crate::event_log::Record;

type Checked = Result<(), sqlx::Error>;

fn text(row: &Text, i: usize) -> &str {
    row.get(i).and_then(|v| v.as_deref()).unwrap_or("")
}

fn number(row: &Text, i: usize) -> i64 {
    text(row, i).parse().unwrap_or(0)
}

/// I1: what a client was told exists, and nothing is in a state nobody will ever move it out of.
pub(super) async fn acceptance(database: &mut Database, records: &[Record], expect: Expect, report: &mut Report) -> Checked {
    let rows = database
        .rows(
            "select i.id_text, r.state, {id:r.id}, {id:r.owner}, \
             case when exists (select 1 from {s}ready q where q.run_id = r.id) then 1 else 0 end, \
             case when exists (select 1 from {s}timer t where t.run_id = r.id) then 1 else 0 end, \
             case when exists (select 1 from {s}waiter w where w.run_id = r.id) then 1 else 0 end, \
             case when r.owner is null or exists (select 1 from {s}worker w where w.incarnation = r.owner) then 1 else 0 end, \
             case when exists (select 1 from {s}outcome o where o.run_id = r.id) then 1 else 0 end \
             from {s}run r left join {s}run_info i on i.run_id = r.id",
        )
        .await?;
    let mut known = HashSet::new();
    for row in &rows {
        let name = if text(row, 0).is_empty() { text(row, 2) } else { text(row, 0) };
        known.insert(name.to_string());
        known.insert(text(row, 2).to_string());
        let (state, owner) = (number(row, 1), text(row, 3));
        let (ready, timer, waiter, owner_lives, outcome) =
            (number(row, 4) == 1, number(row, 5) == 1, number(row, 6) == 1, number(row, 7) == 1, number(row, 8) == 1);
        let mut broken = |why: &str| report.broken("I1", format!("run {name} (state {state}): {why}"));
        match state {
            1 if !ready && !timer => broken("ready, but in no queue and with no timer: nobody will claim it"),
            2 | 4 if owner.is_empty() => broken("running without an owner"),
            // Allowed while its worker's death is being worked off; not when everything should be over.
            2 | 4 if !owner_lives && expect.finished => broken("owned by an incarnation that is gone"),
            3 if !timer && !waiter => broken("waits for nothing: nobody will wake it"),
            1 | 3 | 5 if !owner.is_empty() => broken("has an owner in a state that has none"),
            6..=8 if !outcome => broken("is terminal without an outcome"),
            6..=8 if !owner.is_empty() => broken("is terminal and owned"),
            1..=5 if outcome => broken("has an outcome and is not terminal"),
            _ => {}
        }
        if state >= 5 && ready {
            report.broken("I1", format!("run {name} (state {state}) still stands in a queue"));
        }
        if expect.finished && state < 5 {
            report.broken("I1", format!("run {name} is not finished after the quiet phase: state {state}"));
        }
    }
    let accepted: Vec<&Record> = records.iter().filter(|r| r.kind == "accepted").collect();
    for record in &accepted {
        if !known.contains(&record.run) {
            report.broken("I1", format!("run {} was accepted and does not exist", record.run));
        }
    }
    report.count("runs", rows.len() as i64);
    report.count("accepted starts", accepted.len() as i64);
    Ok(())
}

/// I1: a released run whose wake condition already holds is a lost wake-up.
pub(super) async fn sleepers(database: &mut Database, expect: Expect, report: &mut Report) -> Checked {
    let lost = [
        (
            "a message it waits for is there",
            "select {id:r.id} from {s}run r join {s}waiter w on w.run_id = r.id and w.kind = 2 where r.state = 3 and exists \
             (select 1 from {s}message m where m.run_id = r.id and m.topic = w.key and m.consumed is null)",
        ),
        (
            "the event it waits for is there",
            "select {id:r.id} from {s}run r join {s}waiter w on w.run_id = r.id and w.kind = 3 where r.state = 3 and exists \
             (select 1 from {s}event e where e.run_id = w.target and e.key = w.key)",
        ),
        (
            "the run it waits for has ended",
            "select {id:r.id} from {s}run r join {s}waiter w on w.run_id = r.id and w.kind = 4 where r.state = 3 and exists \
             (select 1 from {s}outcome o where o.run_id = w.target)",
        ),
    ];
    for (why, sql) in lost {
        for row in database.rows(sql).await? {
            report.broken("I1", format!("run {} sleeps although {why}", text(&row, 0)));
        }
    }
    if expect.timer_slack_ms > 0 {
        let sql = format!("select {{id:run_id}}, kind from {{s}}timer where {{us:due_at}} < {{now}} - {}", expect.timer_slack_ms * 1000);
        for row in database.rows(&sql).await? {
            report.broken("I14", format!("run {}: a timer of kind {} is overdue by more than {} ms", text(&row, 0), text(&row, 1), expect.timer_slack_ms));
        }
    }
    Ok(())
}

/// I3: recorded calls of a finished run have no holes, completions are numbered once, and later completions belong to later epochs.
pub(super) async fn history(database: &mut Database, report: &mut Report) -> Checked {
    let holes = database
        .rows(
            "select {id:s.run_id}, s.segment, max(s.seq), count(*) from {s}step s join {s}run r on r.id = s.run_id \
             where s.branch = '' and r.state = 6 group by s.run_id, s.segment having max(s.seq) + 1 <> count(*)",
        )
        .await?;
    for row in holes {
        // `all` and `map` take a number and record nothing of their own: their branches show that they were there.
        let (run, last) = (text(&row, 0), number(&row, 2));
        let sql = format!("select branch, seq from {{s}}step where run_id = {{key:{run}}} and segment = {}", number(&row, 1));
        let recorded = database.rows(&sql).await?;
        let there = |n: i64| {
            let group = format!("/{n}/");
            recorded.iter().any(|r| (text(r, 0).is_empty() && number(r, 1) == n) || text(r, 0).starts_with(&group))
        };
        for missing in (0..=last).filter(|n| !there(*n)) {
            report.broken("I3", format!("run {run}: call {missing} is missing although call {last} is recorded"));
        }
    }
    let twice = database.rows("select {id:run_id}, segment, done, count(*) from {s}step group by run_id, segment, done having count(*) > 1").await?;
    for row in twice {
        report.broken("I3", format!("run {}: completion {} was given out {} times", text(&row, 0), text(&row, 2), text(&row, 3)));
    }
    let backwards = database
        .rows(
            "select {id:run_id}, done, epoch, before from (select run_id, done, epoch, \
             lag(epoch) over (partition by run_id order by segment, done) as before from {s}step) x where before > epoch",
        )
        .await?;
    for row in backwards {
        report.broken("I3", format!("run {}: completion {} of epoch {} follows one of epoch {}", text(&row, 0), text(&row, 1), text(&row, 2), text(&row, 3)));
    }
    let steps = database.number("select count(*) from {s}step").await?;
    report.count("recorded calls", steps);
    Ok(())
}

/// I7: nothing an incarnation wrote was committed after that incarnation was declared dead. PostgreSQL says so by commit order; on
/// SQLite, where one writer makes statement order commit order, the rows' own times do.
pub(super) async fn fencing(database: &mut Database, report: &mut Report) -> Checked {
    // A user's transaction holds its run row only: it counts from the claim by another, which the order of epochs shows (I3).
    let dead = database.number("select count(*) from {s}dead_worker where not graceful").await?;
    report.count("dead workers", dead);
    let sources = [("step", "s.kind <> 2"), ("outcome", "1 = 1")];
    for (table, plain) in sources {
        let sql = if database.is_postgres() {
            format!(
                "select {{id:s.run_id}}, {{id:s.written_by}} from {{s}}{table} s join {{s}}dead_worker d on d.incarnation = s.written_by \
                 where {plain} and s.at > d.at and pg_xact_commit_timestamp(s.xmin) > pg_xact_commit_timestamp(d.txid::text::xid)"
            )
        } else {
            format!(
                "select {{id:s.run_id}}, {{id:s.written_by}} from {{s}}{table} s join {{s}}dead_worker d on d.incarnation = s.written_by \
                 where {plain} and s.at > d.at"
            )
        };
        for row in database.rows(&sql).await? {
            report.broken("I7", format!("run {}: a {table} row of dead worker {} was committed after its death", text(&row, 0), text(&row, 1)));
        }
    }
    // Whoever wrote a row is a worker that lives or a worker that is known to be dead.
    let strangers = database
        .rows(
            "select distinct {id:written_by} from {s}step s where not exists (select 1 from {s}worker w where w.incarnation = s.written_by) \
             and not exists (select 1 from {s}dead_worker d where d.incarnation = s.written_by)",
        )
        .await?;
    if !strangers.is_empty() {
        report.notes.push(format!("{} incarnations left no trace but their rows (drained and forgotten)", strangers.len()));
    }
    Ok(())
}

/// I5: money is neither made nor lost, each transactional step moved it once, and its row and its checkpoint stand or fall together.
pub(super) async fn ledger(database: &mut Database, records: &[Record], expect: Expect, report: &mut Report) -> Checked {
    let tables = if database.is_postgres() {
        "select count(*) from pg_tables where tablename in ('accounts', 'moved') and schemaname = 'public'"
    } else {
        "select count(*) from sqlite_master where type = 'table' and name in ('accounts', 'moved')"
    };
    if database.number(tables).await? < 2 {
        return Ok(());
    }
    for row in database.rows("select run, step, count(*) from moved group by run, step having count(*) > 1").await? {
        report.broken("I5", format!("run {} step {}: moved money {} times", text(&row, 0), text(&row, 1), text(&row, 2)));
    }
    let wrong = database
        .rows(
            "select a.id, a.balance, a.opening, coalesce((select sum(m.amount) from moved m where m.account = a.id), 0) from accounts a \
             where a.balance <> a.opening + coalesce((select sum(m.amount) from moved m where m.account = a.id), 0)",
        )
        .await?;
    for row in wrong {
        report.broken("I5", format!("account {}: balance {}, opened with {}, moved {}", text(&row, 0), text(&row, 1), text(&row, 2), text(&row, 3)));
    }
    let moved: HashMap<String, i64> =
        database.rows("select run, count(*) from moved group by run").await?.iter().map(|r| (text(r, 0).to_string(), number(r, 1))).collect();
    let recorded = database
        .rows(
            "select i.id_text, (select count(*) from {s}step s where s.run_id = i.run_id and s.kind = 2 and not s.failed) from {s}run_info i \
             where i.id_text is not null",
        )
        .await?;
    for row in &recorded {
        let (run, steps) = (text(row, 0), number(row, 1));
        let rows = moved.get(run).copied().unwrap_or(0);
        if rows != steps {
            report.broken("I5", format!("run {run}: {rows} movements and {steps} recorded transactional steps: they did not commit together"));
        }
    }
    for record in records.iter().filter(|r| r.kind == "ack" && r.detail == "tx") {
        if moved.get(&record.run).copied().unwrap_or(0) == 0 {
            report.broken("I5", format!("run {} step {}: acknowledged, and its movement is not there", record.run, record.step));
        }
    }
    let total = database.number("select coalesce(sum(amount), 0) from moved").await?;
    if expect.money != 0 && total != expect.money {
        report.broken("I5", format!("{total} moved in all, {} expected", expect.money));
    }
    report.count("movements", moved.values().sum());
    Ok(())
}

/// I13: a consumed message belongs to a receive that is recorded, and no receive took two.
pub(super) async fn messages(database: &mut Database, report: &mut Report) -> Checked {
    let shared = database
        .rows("select {id:run_id}, consumed, count(*) from {s}message where consumed is not null group by run_id, consumed having count(*) > 1")
        .await?;
    for row in shared {
        report.broken("I13", format!("run {}: receive number {} took {} messages", text(&row, 0), text(&row, 1), text(&row, 2)));
    }
    let dangling = database
        .rows(
            "select {id:m.run_id}, {id:m.id} from {s}message m where m.consumed is not null and not exists \
             (select 1 from {s}step s where s.run_id = m.run_id and s.done = m.consumed and s.kind = 4)",
        )
        .await?;
    for row in dangling {
        report.broken("I13", format!("run {}: message {} is gone and no receive is recorded", text(&row, 0), text(&row, 1)));
    }
    let sent = database.number("select count(*) from {s}message").await?;
    report.count("messages", sent);
    Ok(())
}

/// What must be gone when everything is: slots, waiters, timers and dedup keys of finished runs; leases without a worker.
pub(super) async fn residue(database: &mut Database, expect: Expect, report: &mut Report) -> Checked {
    if !expect.finished {
        return Ok(());
    }
    for table in ["slot", "waiter", "timer", "ready"] {
        // The end of a parent leaves a timer (kind 7) until its children have ended too.
        let but = if table == "timer" { " and x.kind <> 7" } else { "" };
        let sql = format!("select count(*) from {{s}}{table} x join {{s}}run r on r.id = x.run_id where r.state >= 6{but}");
        let left = database.number(&sql).await?;
        if left > 0 {
            report.broken("I1", format!("{left} rows of finished runs are left in {table}"));
        }
    }
    let leases = database.number("select count(*) from {s}lease l where not exists (select 1 from {s}worker w where w.incarnation = l.incarnation)").await?;
    if leases > 0 {
        report.broken("I7", format!("{leases} lease rows stand without their worker"));
    }
    Ok(())
}

/// Process: when its incarnations were declared dead, in nanoseconds of the wall clock.
pub(super) async fn deaths(database: &mut Database) -> Result<HashMap<u32, Vec<i64>>, sqlx::Error> {
    let mut out: HashMap<u32, Vec<i64>> = HashMap::new();
    for row in database.rows("select pid, {us:at} from {s}dead_worker").await? {
        out.entry(number(&row, 0) as u32).or_default().push(number(&row, 1) * 1000);
    }
    Ok(out)
}

/// Runs somebody retried, resumed or rewound, by key and by the user's id: there, recorded calls may be forgotten.
pub(super) async fn controlled(database: &mut Database) -> Result<HashSet<String>, sqlx::Error> {
    let rows = database
        .rows("select {id:c.run_id}, i.id_text from {s}control_log c left join {s}run_info i on i.run_id = c.run_id where c.action <> 'cancel'")
        .await?;
    Ok(rows.iter().flat_map(|r| [text(r, 0).to_string(), text(r, 1).to_string()]).filter(|t| !t.is_empty()).collect())
}

/// Each query on rows it must not pass: a check that has never counted one says nothing when it counts none.
#[cfg(test)]
mod tests {
    use everstep::store::{self, StoreConfig};

    use crate::audit::{Expect, audit};
    use crate::database::Database;

    /// A run that ended well after one step; its worker was declared dead at 100. And the money of the suite.
    const SOUND: &str = "\
insert into run (id, route, epoch, state) values (x'01', 1, 1, 6);
insert into run_info (run_id, id_text, namespace, workflow, created_at, root) values (x'01', 'r', 'n', 'w', 1, x'01');
insert into outcome (run_id, state, epoch, token, written_by, at) values (x'01', 6, 1, 1, x'0d', 60);
insert into dead_worker (incarnation, at, txid, pid, host, build) values (x'0d', 100, 0, 1, 'h', 'b');
create table accounts (id integer primary key, opening bigint not null, balance bigint not null);
create table moved (run text not null, step text not null, account integer not null, amount bigint not null);
insert into accounts values (1, 10, 10);";

    /// A row of `step`, by its place, completion, epoch, kind and time.
    fn step(seq: i32, done: i32, epoch: i32, kind: i32, at: i64) -> String {
        format!(
            "insert into step (run_id, at, site, token, took_us, written_by, segment, seq, done, seen, epoch, attempt, kind, branch) \
             values (x'01', {at}, 1, {done}, 1, x'0d', 0, {seq}, {done}, {done}, {epoch}, 1, {kind}, '');"
        )
    }

    /// A run of this state that nobody owns, and what it waits for: a waiter's kind, key and target.
    fn asleep(kind: i32, key: &str, target: &str) -> String {
        format!(
            "insert into run (id, route, epoch, state) values (x'02', 1, 1, 3); \
             insert into run_info (run_id, namespace, workflow, created_at, root) values (x'02', 'n', 'w', 1, x'02'); \
             insert into waiter (run_id, segment, branch, seq, kind, key, target, site) values (x'02', 0, '', 0, {kind}, '{key}', {target}, 1);"
        )
    }

    async fn found(rows: &str) -> Vec<(&'static str, String)> {
        let file = std::env::temp_dir().join(format!("everstep-audit-{}.db", uuid::Uuid::new_v4().simple()));
        let url = format!("sqlite:{}", file.display());
        let config = StoreConfig {
            url: url.clone(),
            schema: String::new(),
            namespace: "n".into(),
            lanes: 1,
            pool: 1,
            pooler: None,
            statement_timeout_ms: 20_000,
            beat_timeout_ms: 20_000,
            allow_async_commit: false,
            follow_up: |_, _| None,
        };
        let store = store::open(config).expect("opens");
        store.migrate().await.expect("migrates");
        store.close().await;
        let mut database = Database::open(&url, "").await.expect("opens");
        database.execute(&[SOUND, &step(0, 0, 1, 1, 50), rows].concat()).await.expect("inserts");
        let expect = Expect { timer_slack_ms: 1000, ..Expect::default() };
        let report = audit(&mut database, None, expect).await.expect("audits");
        drop(database);
        for end in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{end}", file.display())));
        }
        report.findings.into_iter().map(|finding| (finding.invariant, finding.text)).collect()
    }

    #[tokio::test]
    async fn sound_rows_pass() {
        let moved = step(1, 1, 1, 2, 55) + "insert into moved values ('r', '1', 1, 5); update accounts set balance = 15;";
        for rows in [String::new(), moved, asleep(2, "t", "null"), "update dead_worker set graceful = 1;".into()] {
            assert_eq!(found(&rows).await, [], "{rows}");
        }
    }

    #[tokio::test]
    async fn each_broken_invariant_is_found() {
        let read = "insert into message (run_id, topic, ord, id, at, token) values (x'02', 't', 1, x'03', 1, 1);";
        let event = "insert into event (run_id, key, at) values (x'01', 'k', 1);";
        let taken = |id: &str| format!("insert into message (run_id, topic, ord, id, at, token, consumed) values (x'01', 't', 1, x'{id}', 1, 1, 1);");
        let broken = [
            ("I1", "nobody will claim it", "update run set state = 1; delete from outcome;".to_string()),
            ("I1", "without an outcome", "delete from outcome;".into()),
            ("I1", "waits for nothing", asleep(2, "t", "null") + "delete from waiter;"),
            ("I1", "a message it waits for", asleep(2, "t", "null") + read),
            ("I1", "the event it waits for", asleep(3, "k", "x'01'") + event),
            ("I1", "the run it waits for", asleep(4, "", "x'01'")),
            ("I3", "call 1 is missing", step(2, 1, 1, 1, 55)),
            ("I3", "completion 0 was given out 2 times", step(1, 0, 1, 1, 55)),
            ("I3", "of epoch 0 follows one of epoch 1", step(1, 1, 0, 1, 55)),
            ("I5", "0 movements and 1 recorded", step(1, 1, 1, 2, 55)),
            ("I5", "1 movements and 0 recorded", "insert into moved values ('r', '1', 1, 5); update accounts set balance = 15;".into()),
            ("I5", "moved money 2 times", "insert into moved values ('r', '1', 1, 5), ('r', '1', 1, 5);".into()),
            ("I5", "balance 11", "update accounts set balance = 11;".into()),
            ("I7", "a step row of dead worker", step(1, 1, 1, 1, 150)),
            ("I7", "a outcome row of dead worker", "update outcome set at = 150;".into()),
            ("I13", "no receive is recorded", taken("03")),
            ("I13", "took 2 messages", step(1, 1, 1, 4, 55) + &taken("03") + &taken("04")),
            ("I14", "overdue", "insert into timer (run_id, kind, due_at) values (x'01', 1, 1);".into()),
        ];
        for (invariant, text, rows) in broken {
            let found = found(&rows).await;
            assert!(found.iter().any(|(which, why)| *which == invariant && why.contains(text)), "{invariant} ({text}) is not in {found:?}, after {rows}");
        }
    }
}
