//! Who runs what: claims, what a worker owns, and the history that goes with it.

use std::collections::HashMap;

use uuid::Uuid;

use super::SqliteStore;
use super::commit::is_leased;
use super::connection::Connection;
use super::rows::{
    RUN_COLUMNS, RunRow, attempt_columns, attempt_record, cancel_request, now_us, open_wait, position_vals, run_columns, run_row, step_columns, step_record,
    until_ms, waiter_columns,
};
use super::start::{EXPIRY, RETRY, START, WAKE};
use super::value::{Columns as _, Val, vals};
use crate::store::{ClaimRequest, ClaimedRun, HISTORY_PAGE, OwnedNow, Position, Result, Route, RunKey, StepRecord};

/// Candidates looked at beyond what is wanted, where a limit may pass over the head of a queue.
const PAGE: i64 = 256;
/// .. and how many of one route at most: a claim must end.
const DEPTH: usize = 4096;

struct Candidate {
    run: RunKey,
    route: i64,
    priority: i64,
    ord: i64,
    key: Option<String>,
    slotted: bool,
    ready: bool,
}

/// What one queue still allows.
struct Allowance {
    name: String,
    /// Runs it may get more; None: no bound.
    left: Option<i64>,
    key_limit: Option<i64>,
    /// Has a fleet or key limit: its runs take slot rows.
    slots: bool,
    hold: bool,
    per_key: HashMap<String, i64>,
}

impl SqliteStore {
    pub(super) async fn claim_runs(&self, request: &ClaimRequest) -> Result<Vec<ClaimedRun>> {
        if request.max <= 0 || request.routes.is_empty() || !self.anyone_ready(&request.routes.iter().map(|r| r.id).collect::<Vec<_>>(), 0).await? {
            return Ok(Vec::new());
        }
        crate::failpoint!("store.claim.before");
        let mut tx = self.write().await?;
        let outcome = take(&mut tx, &self.namespace, request).await;
        let claimed = tx.finish(outcome).await?;
        crate::failpoint!("store.claim.after");
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?.begin_read().await?;
        let outcome = load(&mut tx, claimed, true).await;
        tx.finish(outcome).await
    }

    /// A look without the writer: idle workers ask often.
    /// Whether the head of one of these routes was created so long ago: while it is young, somebody is at work there.
    pub(super) async fn anyone_ready(&self, routes: &[i64], older_than_ms: i64) -> Result<bool> {
        let mut conn = self.read().await?;
        // Whatever the clock says, 0 is any age.
        let until = if older_than_ms == 0 { i64::MAX } else { now_us() - older_than_ms * 1000 };
        let sql = "with seen(until) as (values (?)), served(route) as (values {rows}) select 1 from served, seen \
                   where (select ord from ready where ready.route = served.route order by route, priority, ord limit 1) <= seen.until limit 1";
        let routes = routes.iter().map(|route| (*route).into()).collect();
        Ok(!conn.fetch_rows(sql, 1, &[until.into()], routes).await?.is_empty())
    }

    pub(super) async fn load_owned(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<ClaimedRun>> {
        let mut tx = self.read().await?.begin_read().await?;
        let outcome = async {
            let rows = super::wake::load_by_key(&mut tx, runs.iter().copied()).await?;
            load(&mut tx, rows.into_values().filter(|r| r.owner == Some(incarnation)).collect(), false).await
        }
        .await;
        tx.finish(outcome).await
    }

    pub(super) async fn history_page(&self, run: RunKey, segment: i32, after: &Position) -> Result<(Vec<StepRecord>, bool)> {
        let mut conn = self.read().await?;
        page(&mut conn, run, segment, Some(after)).await
    }

    pub(super) async fn owned_now(&self, incarnation: Uuid, which: Which<'_>) -> Result<Vec<OwnedNow>> {
        let mut conn = self.read().await?;
        let now = now_us();
        let rows = match which {
            Which::Owned => {
                let sql = concat!(
                    "select ",
                    run_columns!(),
                    ", run_note.cancel_by, run_note.cancel_why, run_note.cancel_at, run_note.cancel_until from run \
                     left join run_note on run_note.run_id = run.id where run.owner = ?"
                );
                conn.fetch(sql, vals![incarnation]).await?
            }
            Which::These(runs) => {
                let sql = concat!(
                    "select ",
                    run_columns!(),
                    ", run_note.cancel_by, run_note.cancel_why, run_note.cancel_at, run_note.cancel_until from run \
                     left join run_note on run_note.run_id = run.id where run.id in ({list})"
                );
                conn.fetch_keys(sql, &[], runs.iter().copied()).await?
            }
        };
        rows.iter()
            .map(|row| {
                let run = run_row(row)?;
                Ok(OwnedNow {
                    key: run.id,
                    epoch: run.epoch,
                    mine: run.owner == Some(incarnation),
                    state: run.state,
                    inbox: run.inbox,
                    claim_token: run.claim_token,
                    cancel: cancel_request(row, RUN_COLUMNS, now)?,
                })
            })
            .collect()
    }
}

pub(super) enum Which<'a> {
    Owned,
    These(&'a [RunKey]),
}

async fn busy_routes(conn: &mut Connection, routes: &[Route]) -> Result<Vec<i64>> {
    let sql = "with served(route) as (values {rows}) select route from served where exists (select 1 from ready where ready.route = served.route)";
    let rows = conn.fetch_rows(sql, 1, &[], routes.iter().map(|r| r.id.into()).collect()).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

async fn take(conn: &mut Connection, namespace: &str, request: &ClaimRequest) -> Result<Vec<RunRow>> {
    if !is_leased(conn, 0, Some(request.incarnation)).await? {
        return Ok(Vec::new());
    }
    let now = now_us();
    let busy = busy_routes(conn, &request.routes).await?;
    let mut queues: HashMap<&str, Option<Allowance>> = HashMap::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut queue_of: HashMap<i64, &str> = HashMap::new();
    for route in request.routes.iter().filter(|r| busy.contains(&r.id)) {
        if !queues.contains_key(route.queue.as_str()) {
            queues.insert(&route.queue, allowance(conn, namespace, &route.queue, request).await?);
        }
        let Some(Some(allowance)) = queues.get_mut(route.queue.as_str()) else { continue };
        queue_of.insert(route.id, &route.queue);
        look(conn, route.id, request.max, allowance, &mut candidates).await?;
    }
    candidates.sort_by_key(|c| (c.priority, c.ord, c.run));
    // Each queue's best in turn, so that no queue's backlog delays another.
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let mut order: Vec<(usize, Candidate)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let turn = turns.entry(queue_of.get(&candidate.route).copied().unwrap_or_default()).or_default();
        order.push((*turn, candidate));
        *turn += 1;
    }
    order.sort_by_key(|(turn, c)| (*turn, c.priority, c.ord, c.run));
    let mut chosen: Vec<Candidate> = Vec::new();
    let mut stale: Vec<Candidate> = Vec::new();
    for (_, candidate) in order {
        if !candidate.ready {
            stale.push(candidate);
            continue;
        }
        if i64::try_from(chosen.len()).unwrap_or(i64::MAX) >= request.max {
            break;
        }
        let Some(Some(allowance)) = queue_of.get(&candidate.route).and_then(|name| queues.get_mut(name)) else { continue };
        if allowance.admit(&candidate) {
            chosen.push(candidate);
        }
    }
    conn.exec_keys("delete from ready where run_id in ({list})", &[], chosen.iter().chain(&stale).map(|c| c.run)).await?;
    assign(conn, namespace, now, request, &chosen, &queue_of, &queues).await
}

async fn allowance(conn: &mut Connection, namespace: &str, name: &str, request: &ClaimRequest) -> Result<Option<Allowance>> {
    let sql = "select paused, fleet_limit, worker_limit, key_limit, hold from queue where namespace = ? and name = ?";
    let mut allowance = Allowance { name: name.into(), left: None, key_limit: None, slots: false, hold: false, per_key: HashMap::new() };
    let Some(row) = conn.fetch_one(sql, vals![namespace, name]).await? else { return Ok(Some(allowance)) };
    if row.flag(0)? {
        return Ok(None);
    }
    let (fleet, worker) = (row.opt_int(1)?, row.opt_int(2)?);
    allowance.key_limit = row.opt_int(3)?;
    allowance.hold = row.flag(4)?;
    allowance.slots = fleet.is_some() || allowance.key_limit.is_some();
    if allowance.slots {
        let mut taken = 0;
        let sql = "select fairness_key, count(*) from slot where namespace = ? and queue = ? group by fairness_key";
        for row in conn.fetch(sql, vals![namespace, name]).await? {
            taken += row.int(1)?;
            if let Some(key) = row.opt_text(0)? {
                allowance.per_key.insert(key, row.int(1)?);
            }
        }
        allowance.left = fleet.map(|limit| limit - taken);
    }
    if let Some(limit) = worker {
        let held: i64 = request.held_by_queue.iter().filter(|(queue, _)| queue == name).map(|(_, n)| i64::from(*n)).sum();
        let left = limit - held;
        allowance.left = Some(allowance.left.map_or(left, |l| l.min(left)));
    }
    Ok(Some(allowance))
}

impl Allowance {
    fn admit(&mut self, candidate: &Candidate) -> bool {
        // Its slot is in the count already.
        if candidate.slotted {
            return true;
        }
        if self.left.is_some_and(|left| left <= 0) {
            return false;
        }
        if let (Some(limit), Some(key)) = (self.key_limit, &candidate.key) {
            let taken = self.per_key.entry(key.clone()).or_default();
            if *taken >= limit {
                return false;
            }
            *taken += 1;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        true
    }
}

/// Candidates of one route in claim order: as many as are wanted, or, where a limit may pass over the first, pages of them.
async fn look(conn: &mut Connection, route: i64, max: i64, allowance: &Allowance, candidates: &mut Vec<Candidate>) -> Result<()> {
    let wanted = allowance.left.map_or(max, |left| left.min(max)).max(0);
    if wanted == 0 && !allowance.hold {
        return Ok(());
    }
    let sifted = allowance.key_limit.is_some() || allowance.hold;
    let limit = if sifted { PAGE } else { wanted };
    let mut after = (i64::MIN, i64::MIN, Uuid::nil());
    let mut seen = 0;
    let mut usable = 0;
    let mut per_key: HashMap<String, i64> = allowance.per_key.clone();
    loop {
        // Keys that are full are left out where the rows are: however many there are of one, another's are found. The run that fills its key, in a queue
        // that holds, is found by its slot.
        let full: Vec<&String> = per_key.iter().filter(|(_, taken)| allowance.key_limit.is_some_and(|limit| **taken >= limit)).map(|(key, _)| key).collect();
        let full = serde_json::Value::from(full.into_iter().map(String::as_str).collect::<Vec<_>>()).to_string();
        let sql = "select ready.run_id, ready.priority, ready.ord, ready.fairness_key, run.slotted, \
                   run.owner is null and run.state in (1, 4) from ready left join run on run.id = ready.run_id \
                   where ready.route = ? and (ready.priority, ready.ord, ready.run_id) > (?, ?, ?) \
                   and (ready.fairness_key is null or ready.fairness_key not in (select value from json_each(?)) \
                   or exists (select 1 from slot where slot.run_id = ready.run_id)) order by ready.priority, ready.ord, ready.run_id limit ?";
        let rows = conn.fetch(sql, vals![route, after.0, after.1, after.2, full, limit]).await?;
        let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit;
        for row in rows {
            let candidate = Candidate {
                run: row.uuid(0)?,
                route,
                priority: row.int(1)?,
                ord: row.int(2)?,
                key: row.opt_text(3)?,
                slotted: row.opt_int(4)?.is_some_and(|v| v != 0),
                ready: row.opt_int(5)? == Some(1),
            };
            after = (candidate.priority, candidate.ord, candidate.run);
            seen += 1;
            if candidate.ready && (candidate.slotted || counts(&mut per_key, allowance.key_limit, candidate.key.as_deref())) {
                usable += 1;
            }
            candidates.push(candidate);
        }
        if !full || usable >= wanted || seen >= DEPTH {
            return Ok(());
        }
    }
}

fn counts(per_key: &mut HashMap<String, i64>, limit: Option<i64>, key: Option<&str>) -> bool {
    let (Some(limit), Some(key)) = (limit, key) else { return true };
    let taken = per_key.entry(key.to_string()).or_default();
    *taken += 1;
    *taken <= limit
}

/// Make the chosen runs this worker's. One that was asked to cancel stays `Cancelling`: its clean-up goes on here.
async fn assign(
    conn: &mut Connection,
    namespace: &str,
    now: i64,
    request: &ClaimRequest,
    chosen: &[Candidate],
    queue_of: &HashMap<i64, &str>,
    queues: &HashMap<&str, Option<Allowance>>,
) -> Result<Vec<RunRow>> {
    let sql = "update run set owner = ?, claim_token = ?, epoch = epoch + 1, \
               state = case when state = 4 then 4 else 2 end where id in ({list}) and owner is null and state in (1, 4) \
               returning id, owner, epoch, state, inbox, segment, priority, route, slotted, timed, keyed, claim_token, crashes, crash_mark, run_attempt";
    let before = vals![request.incarnation, request.claim_token];
    let rows = conn.fetch_keys(sql, &before, chosen.iter().map(|c| c.run)).await?;
    let mut claimed: HashMap<RunKey, RunRow> = rows.iter().map(|row| run_row(row).map(|run| (run.id, run))).collect::<Result<_>>()?;
    let mut slots: Vec<Val> = Vec::new();
    let mut slotted: Vec<RunKey> = Vec::new();
    for candidate in chosen {
        let Some(run) = claimed.get_mut(&candidate.run) else { continue };
        let Some(Some(queue)) = queue_of.get(&candidate.route).and_then(|name| queues.get(name)) else { continue };
        if queue.slots && !run.slotted {
            slots.extend(vals![run.id, namespace, &queue.name, candidate.key.as_ref(), now]);
            slotted.push(run.id);
            run.slotted = true;
        }
    }
    conn.write_rows("insert or ignore into slot(run_id, namespace, queue, fairness_key, at) values {rows}", 5, slots).await?;
    conn.exec_keys("update run set slotted = 1 where id in ({list})", &[], slotted).await?;
    let timed: Vec<RunKey> = claimed.values().filter(|r| r.timed).map(|r| r.id).collect();
    for kind in [WAKE, START, EXPIRY, RETRY] {
        conn.exec_keys("delete from timer where kind = ? and run_id in ({list})", &[kind.into()], timed.iter().copied()).await?;
    }
    let keyed: Vec<RunKey> = claimed.values().filter(|r| r.keyed).map(|r| r.id).collect();
    conn.exec_keys("delete from dedup where scope = 1 and run_id in ({list})", &[], keyed).await?;
    Ok(chosen.iter().filter_map(|c| claimed.remove(&c.run)).collect())
}

/// All a worker needs to go on with these runs. A run claimed for the first time has no history, and none is looked for.
async fn load(conn: &mut Connection, runs: Vec<RunRow>, just_claimed: bool) -> Result<Vec<ClaimedRun>> {
    let now = now_us();
    let sql = "select run_info.run_id, run_info.id_text, run_info.queue, run_info.workflow, run_info.label, run_info.version, run_info.parent, run_info.root, \
               run_info.trace_parent, run_info.attributes, run_info.created_by, run_info.options, run_info.input_codec, run_info.input_key_id, run_info.input, run_info.new_effects \
               from run_info where run_id in ({list})";
    let mut infos = HashMap::new();
    for row in conn.fetch_keys(sql, &[], runs.iter().map(|r| r.id)).await? {
        infos.insert(row.uuid(0)?, row);
    }
    let timed: Vec<RunKey> = runs.iter().filter(|r| r.timed).map(|r| r.id).collect();
    let mut claimed = Vec::with_capacity(runs.len());
    let mut at: HashMap<RunKey, usize> = HashMap::new();
    for run in runs {
        let Some(info) = infos.get(&run.id) else { continue };
        at.insert(run.id, claimed.len());
        claimed.push(ClaimedRun {
            key: run.id,
            epoch: run.epoch,
            state: run.state,
            inbox: run.inbox,
            segment: run.segment,
            id_text: info.opt_text(1)?,
            route: Route { id: run.route, queue: info.text(2)?, workflow: info.text(3)?, label: info.text(4)? },
            version: info.opt_text(5)?,
            priority: run.priority,
            input: info.payload(12)?,
            parent: info.opt_uuid(6)?,
            root: info.uuid(7)?,
            trace_parent: info.opt_text(8)?,
            attributes: info.opt_text(9)?,
            created_by: info.opt_text(10)?,
            options: info.opt_text(11)?,
            new_effects: info.int32(15)?,
            has_children: false,
            crashes: run.crashes,
            run_attempt: run.run_attempt,
            deadline_in_ms: None,
            cancel: None,
            steps: Vec::new(),
            more_steps: false,
            attempts: Vec::new(),
            waits: Vec::new(),
        });
    }
    let sql = "select run_id, due_at from timer where kind = 3 and run_id in ({list})";
    for row in conn.fetch_keys(sql, &[], timed).await? {
        if let Some(index) = at.get(&row.uuid(0)?) {
            claimed[*index].deadline_in_ms = Some(until_ms(row.int(1)?, now));
        }
    }
    let old: Vec<RunKey> = claimed.iter().filter(|r| !just_claimed || r.epoch > 1).map(|r| r.key).collect();
    add_history(conn, now, &old, &at, &mut claimed).await?;
    Ok(claimed)
}

async fn add_history(conn: &mut Connection, now: i64, old: &[RunKey], at: &HashMap<RunKey, usize>, claimed: &mut [ClaimedRun]) -> Result<()> {
    let sql = "select run_id, cancel_by, cancel_why, cancel_at, cancel_until from run_note where run_id in ({list})";
    for row in conn.fetch_keys(sql, &[], old.iter().copied()).await? {
        if let Some(index) = at.get(&row.uuid(0)?) {
            claimed[*index].cancel = cancel_request(&row, 1, now)?;
        }
    }
    let sql = concat!("select attempt.run_id, ", attempt_columns!(), " from attempt where run_id in ({list}) order by run_id, at");
    for row in conn.fetch_keys(sql, &[], old.iter().copied()).await? {
        if let Some(index) = at.get(&row.uuid(0)?) {
            let attempt = attempt_record(&row, 1, now)?;
            if attempt.at.segment == claimed[*index].segment {
                claimed[*index].attempts.push(attempt);
            }
        }
    }
    let sql = concat!("select waiter.run_id, ", waiter_columns!(), " from waiter left join site on site.id = waiter.site where waiter.run_id in ({list})");
    for row in conn.fetch_keys(sql, &[], old.iter().copied()).await? {
        if let Some(index) = at.get(&row.uuid(0)?) {
            claimed[*index].waits.push(open_wait(&row, 1, now)?);
        }
    }
    for row in conn.fetch_keys("select distinct parent from child where parent in ({list})", &[], old.iter().copied()).await? {
        if let Some(index) = at.get(&row.uuid(0)?) {
            claimed[*index].has_children = true;
        }
    }
    for run in old {
        let Some(index) = at.get(run) else { continue };
        let (steps, more) = page(conn, *run, claimed[*index].segment, None).await?;
        claimed[*index].steps = steps;
        claimed[*index].more_steps = more;
    }
    Ok(())
}

/// One page of a segment by (branch, seq), and whether there is another.
async fn page(conn: &mut Connection, run: RunKey, segment: i32, after: Option<&Position>) -> Result<(Vec<StepRecord>, bool)> {
    let mut rows = match after {
        None => {
            let sql = concat!(
                "select ",
                step_columns!(),
                " from step left join site on site.id = step.site where step.run_id = ? and step.segment = ? order by step.branch, step.seq limit ?"
            );
            conn.fetch(sql, vals![run, segment, HISTORY_PAGE + 1]).await?
        }
        Some(after) => {
            let sql = concat!(
                "select ",
                step_columns!(),
                " from step left join site on site.id = step.site where step.run_id = ? and step.segment = ? and (step.branch, step.seq) > (?, ?) \
                 order by step.branch, step.seq limit ?"
            );
            let [_, branch, seq] = position_vals(after);
            let mut args = vals![run, segment];
            args.extend([branch, seq, (HISTORY_PAGE + 1).into()]);
            conn.fetch(sql, args).await?
        }
    };
    let most = usize::try_from(HISTORY_PAGE).unwrap_or(usize::MAX);
    let more = rows.len() > most;
    rows.truncate(most);
    Ok((rows.iter().map(|row| step_record(row, 0)).collect::<Result<_>>()?, more))
}
