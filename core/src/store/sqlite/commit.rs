//! The hot path: a batch of writes in one transaction, a verdict each.
//!
//! A batch is worked through in stages: all writes of one kind together, so that two hundred steps are four inserts and not two hundred.
//! A run's own writes keep their order; between runs the order is free, because the callers of one batch are concurrent. Every stage
//! reads what the one before wrote, so writes of one batch that touch each other see each other.

use std::collections::HashMap;

use uuid::Uuid;

use super::connection::{Connection, rejected};
use super::rows::{RunRow, now_us};
use super::value::vals;
use super::wake::{Wakes, load_by_key, wake};
use super::{SqliteStore, finish, start, step, wait};
use crate::failpoint::mutated;
use crate::store::{NewMessage, Payload, Result, Route, RunKey, RunState, Site, StepWrite, StoreError, Verdict, Write};

/// A batch under way: its transaction and what all its writes share.
pub(super) struct Batch<'a> {
    pub(super) conn: &'a mut Connection,
    pub(super) namespace: &'a str,
    pub(super) now: i64,
    pub(super) incarnation: Option<Uuid>,
    /// The lane's lease row stands.
    pub(super) leased: bool,
    /// An earlier try may have committed: tokens decide.
    pub(super) retry: bool,
    pub(super) names: NewNames<'a>,
    pub(super) wakes: Wakes,
}

/// Sites and routes this batch names and no earlier one has stored.
pub(super) struct NewNames<'a> {
    pub(super) known: &'a super::Names,
    pub(super) sites: HashMap<i64, Site>,
    pub(super) routes: HashMap<i64, Route>,
}

impl NewNames<'_> {
    pub(super) fn site(&mut self, site: &Site) {
        if !self.known.sites.contains(&site.id) && !self.sites.contains_key(&site.id) {
            self.sites.insert(site.id, site.clone());
        }
    }

    pub(super) fn route(&mut self, route: &Route) {
        if !self.known.routes.contains(&route.id) && !self.routes.contains_key(&route.id) {
            self.routes.insert(route.id, route.clone());
        }
    }
}

/// Verdicts, and the names that are stored once this commits.
pub(super) struct Applied {
    pub(super) verdicts: Vec<Verdict>,
    sites: Vec<i64>,
    routes: Vec<i64>,
}

impl SqliteStore {
    pub(super) async fn commit_batch(&self, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Vec<Verdict>> {
        crate::failpoint!("store.commit.before");
        let mut tx = self.write().await?;
        let mut outcome = self.apply_fenced(&mut tx, lane, incarnation, writes, retry).await;
        if let Err(StoreError::Rejected { .. }) = outcome {
            // Something among these rows broke a rule nothing foresaw: begin again, each write in a savepoint of its own.
            tx.roll_back().await?;
            tx = self.write().await?;
            outcome = self.apply_singly(&mut tx, lane, incarnation, writes, retry).await;
        }
        crate::failpoint!("store.commit.written");
        let applied = tx.finish(outcome).await?;
        crate::failpoint!("store.commit.after");
        self.remember(applied.sites, applied.routes);
        Ok(applied.verdicts)
    }

    async fn apply_fenced(&self, conn: &mut Connection, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Applied> {
        let leased = is_leased(conn, lane, incarnation).await?;
        crate::failpoint!("store.commit.locked");
        self.apply(conn, leased, incarnation, writes, retry).await
    }

    /// Within the caller's transaction.
    pub(super) async fn apply(&self, conn: &mut Connection, leased: bool, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Applied> {
        let known = self.names();
        let names = NewNames { known: &known, sites: HashMap::new(), routes: HashMap::new() };
        let mut batch = Batch { conn, namespace: &self.namespace, now: now_us(), incarnation, leased, retry, names, wakes: Wakes::new() };
        let mut verdicts: Vec<Option<Verdict>> = writes.iter().map(|w| refusal(w).map(|message| Verdict::Refused { message })).collect();
        for stage in stages(writes, &verdicts) {
            batch.stage(&stage, writes, &mut verdicts).await?;
            let wakes = std::mem::take(&mut batch.wakes);
            wake(batch.conn, batch.now, &wakes).await?;
        }
        batch.store_names().await?;
        let (sites, routes) = (batch.names.sites.into_keys().collect(), batch.names.routes.into_keys().collect());
        let verdicts = verdicts.into_iter().map(|v| v.ok_or_else(|| rejected("a write got no verdict".into()))).collect::<Result<_>>()?;
        Ok(Applied { verdicts, sites, routes })
    }

    async fn apply_singly(&self, conn: &mut Connection, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Applied> {
        let leased = is_leased(conn, lane, incarnation).await?;
        let mut all = Applied { verdicts: Vec::with_capacity(writes.len()), sites: Vec::new(), routes: Vec::new() };
        for write in writes {
            conn.exec("savepoint one", Vec::new()).await?;
            match self.apply(conn, leased, incarnation, std::slice::from_ref(write), retry).await {
                Ok(one) => {
                    conn.exec("release one", Vec::new()).await?;
                    all.verdicts.extend(one.verdicts);
                    all.sites.extend(one.sites);
                    all.routes.extend(one.routes);
                }
                Err(StoreError::Rejected { message, .. }) => {
                    conn.exec("rollback to one", Vec::new()).await?;
                    conn.exec("release one", Vec::new()).await?;
                    all.verdicts.push(Verdict::Refused { message });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

/// Does the lease row of this lane stand?
pub(super) async fn is_leased(conn: &mut Connection, lane: usize, incarnation: Option<Uuid>) -> Result<bool> {
    if mutated("fence.lease") {
        return Ok(true);
    }
    let Some(incarnation) = incarnation else { return Ok(false) };
    let lane = i64::try_from(lane).unwrap_or(i64::MAX);
    Ok(conn.fetch_one("select 1 from lease where incarnation = ? and lane = ?", vals![incarnation, lane]).await?.is_some())
}

/// The kinds in the order one stage follows the other within a round.
fn kind(write: &Write) -> u8 {
    match write {
        Write::Start(_) => 0,
        Write::Step { .. } => 1,
        Write::Attempt { .. } => 2,
        Write::Wait { .. } => 3,
        Write::Outcome { .. } => 4,
        Write::RetryRun { .. } => 5,
        Write::Release { .. } => 6,
        Write::GiveBack { .. } => 7,
        Write::Block { .. } => 8,
        Write::Send(_) => 9,
    }
}

fn own_run(write: &Write) -> Option<RunKey> {
    match write {
        Write::Start(run) => Some(run.key),
        Write::Step { run, .. }
        | Write::Attempt { run, .. }
        | Write::Wait { run, .. }
        | Write::Outcome { run, .. }
        | Write::RetryRun { run, .. }
        | Write::Release { run, .. }
        | Write::GiveBack { run, .. }
        | Write::Block { run, .. } => Some(*run),
        Write::Send(_) => None,
    }
}

/// Indices of the writes of each stage. A run's writes come in order; several recorded calls of one run may share a stage.
fn stages(writes: &[Write], decided: &[Option<Verdict>]) -> Vec<Vec<usize>> {
    let mut last: HashMap<RunKey, (u32, u8)> = HashMap::new();
    let mut stages: std::collections::BTreeMap<(u32, u8), Vec<usize>> = std::collections::BTreeMap::new();
    for (index, write) in writes.iter().enumerate() {
        if decided[index].is_some() {
            continue;
        }
        let kind = kind(write);
        let place = match own_run(write) {
            None => (0, kind),
            Some(run) => {
                let place = match last.get(&run) {
                    None => (0, kind),
                    Some((round, before)) if kind > *before || (kind == *before && (1..=3).contains(&kind)) => (*round, kind),
                    Some((round, _)) => (round + 1, kind),
                };
                last.insert(run, place);
                place
            }
        };
        stages.entry(place).or_default().push(index);
    }
    stages.into_values().collect()
}

impl Batch<'_> {
    async fn stage(&mut self, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
        match kind(&writes[stage[0]]) {
            0 => {
                let starts: Vec<_> = stage.iter().filter_map(|i| if let Write::Start(run) = &writes[*i] { Some(&**run) } else { None }).collect();
                let answers = start::start_runs(self, &starts).await?;
                for (index, verdict) in stage.iter().zip(answers) {
                    verdicts[*index] = Some(verdict);
                }
                Ok(())
            }
            1 => step::record_steps(self, stage, writes, verdicts).await,
            2 => step::record_attempts(self, stage, writes, verdicts).await,
            3 => wait::open_waits(self, stage, writes, verdicts).await,
            9 => step::send_messages(self, stage, writes, verdicts).await,
            _ => finish::leave(self, stage, writes, verdicts).await,
        }
    }

    /// May this incarnation write for a run of this row and epoch?
    pub(super) fn fence(&self, row: Option<&RunRow>, epoch: i32) -> bool {
        let Some(row) = row else { return false };
        self.leased
            && (mutated("fence.run")
                || (row.owner.is_some()
                    && row.owner == self.incarnation
                    && row.epoch == epoch
                    && matches!(row.state, RunState::Running | RunState::Cancelling)))
    }

    pub(super) async fn runs_of(&mut self, stage: &[usize], writes: &[Write]) -> Result<HashMap<RunKey, RunRow>> {
        let mut keys: Vec<RunKey> = stage.iter().filter_map(|i| own_run(&writes[*i])).collect();
        keys.sort_unstable();
        keys.dedup();
        load_by_key(self.conn, keys).await
    }

    pub(super) async fn store_names(&mut self) -> Result<()> {
        let sites = self.names.sites.values().flat_map(|s| vals![s.id, &s.name, &s.location]).collect();
        self.conn.write_rows("insert or ignore into site(id, name, location) values {rows}", 3, sites).await?;
        let namespace = self.namespace;
        let routes = self.names.routes.values().flat_map(|r| vals![r.id, namespace, &r.queue, &r.workflow, &r.label]).collect();
        self.conn.write_rows("insert or ignore into route(id, namespace, queue, workflow, label) values {rows}", 5, routes).await?;
        Ok(())
    }
}

/// Largest text or blob this library's SQLite takes (SQLITE_MAX_LENGTH), with room for the row around it.
const MAX_BYTES: usize = 999_000_000;

fn bad_text(text: &str) -> bool {
    text.contains('\0')
}

/// What the database would refuse, or should: SQLite stores a NUL inside text and PostgreSQL does not, and one contract holds for both.
fn refusal(write: &Write) -> Option<String> {
    let payload = |p: &Payload| (p.data.len() > MAX_BYTES).then(|| "a value is larger than the database takes".to_string());
    let text = |t: &str| bad_text(t).then(|| "a text holds a NUL character".to_string());
    let run = |r: &crate::store::NewRun| {
        if let Some(id) = &r.id_text
            && !(1..=255).contains(&id.len())
        {
            return Some("an id must be 1 to 255 bytes".to_string());
        }
        let texts = [&r.id_text, &r.version, &r.trace_parent, &r.trace_state, &r.attributes, &r.fairness_key, &r.created_by, &r.options];
        texts
            .into_iter()
            .flatten()
            .chain([&r.route.queue, &r.route.workflow, &r.route.label])
            .chain(r.dedup.as_ref().map(|d| &d.key))
            .find_map(|t| text(t))
            .or_else(|| payload(&r.input))
    };
    let message = |m: &NewMessage| text(&m.topic).or_else(|| payload(&m.value));
    let step = |s: &StepWrite| {
        use crate::store::Effect;
        text(&s.at.branch).or_else(|| text(&s.site.name)).or_else(|| text(&s.site.location)).or_else(|| payload(&s.output)).or_else(|| {
            s.effects.iter().find_map(|e| match e {
                Effect::Send(m) => message(m),
                Effect::SetEvent { key, value } => text(key).or_else(|| payload(value)),
                Effect::StartChild(r) => run(r),
                Effect::Consume { .. } | Effect::CloseWait | Effect::CloseWaitOf(_) => None,
            })
        })
    };
    match write {
        Write::Start(r) => run(r),
        Write::Step { step: s, .. } => step(s),
        Write::Attempt { at, site, error, .. } => text(&at.branch).or_else(|| text(&site.name)).or_else(|| payload(error)),
        Write::Wait { at, key, site, .. } => text(&at.branch).or_else(|| text(key)).or_else(|| text(&site.name)),
        Write::Outcome { value, error_type, error_message, then, .. } => payload(value)
            .or_else(|| error_type.as_deref().and_then(text))
            .or_else(|| error_message.as_deref().and_then(text))
            .or_else(|| then.as_deref().and_then(run)),
        Write::RetryRun { error, .. } => payload(error),
        Write::Block { why, .. } => text(why),
        Write::Send(m) => message(m),
        Write::Release { .. } | Write::GiveBack { .. } => None,
    }
}
