//! Group commit: one statement where the batch is plain, one transaction otherwise; bisection for the row that is at fault.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::apply::{self, Applied, Context};
use super::connect::Session;
use super::errors::{is_duplicate, is_poison};
use super::plain::{self, Plain, Written};
use super::{Lane, PostgresStore, batch, starts, steps, waits};
use crate::store::{NewRun, Result, StoreError, Verdict, WakeHint, Write};

/// Tries of a batch that the database rolled back before the engine hears of it.
const TRIES: u32 = 5;
/// Batches that go as transactions after one that had to.
const DETOUR: u32 = 32;
/// Batches for which waiters are looked up before locking, after a batch that met one it had not locked.
const LOOK_AHEAD: u32 = 64;

pub(super) async fn commit(store: &PostgresStore, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Vec<Verdict>> {
    let at = lane % store.lanes.len();
    let context = Context { sites: &store.sites, incarnation, lane: at as i16, retry };
    let mut session = store.lanes[at].home.session(&store.shared).await?;
    failpoint!("store.commit.before");
    let mut verdicts = Vec::with_capacity(writes.len());
    let mut hints = Vec::new();
    for part in batch::cut(writes) {
        verdicts.extend(bisect(&mut session, &context, &store.lanes[at], part, &mut hints).await?);
    }
    drop(session);
    failpoint!("store.commit.after");
    store.hints.tell(store, incarnation, hints);
    Ok(verdicts)
}

/// Commit a part; when a value in it is refused, halve it until that row stands alone, so that the others commit.
async fn bisect(session: &mut Session, context: &Context<'_>, lane: &Lane, part: &[Write], hints: &mut Vec<WakeHint>) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::with_capacity(part.len());
    let mut open = vec![part];
    while let Some(piece) = open.pop() {
        match persist(session, context, lane, piece, hints).await {
            Ok(more) => verdicts.extend(more),
            Err(error) if is_poison(&error) && piece.len() > 1 => {
                let (left, right) = piece.split_at(piece.len() / 2);
                open.push(right);
                open.push(left);
            }
            Err(error) if is_poison(&error) => verdicts.push(Verdict::Refused { message: error.to_string() }),
            Err(error) => return Err(error),
        }
    }
    Ok(verdicts)
}

/// Again, a bounded number of times, when the database rolled back for the sake of another.
async fn persist(session: &mut Session, context: &Context<'_>, lane: &Lane, piece: &[Write], hints: &mut Vec<WakeHint>) -> Result<Vec<Verdict>> {
    let mut tried = 0;
    loop {
        match once(session, context, lane, piece, hints).await {
            Err(StoreError::Conflict(_)) if tried < TRIES => {
                tried += 1;
                // Full jitter: the same two must not meet again in the same order.
                let spread = u64::from(Uuid::new_v4().as_bytes()[0]);
                tokio::time::sleep(Duration::from_millis(spread * u64::from(tried) / 64)).await;
            }
            other => return other,
        }
    }
}

async fn once(session: &mut Session, context: &Context<'_>, lane: &Lane, piece: &[Write], hints: &mut Vec<WakeHint>) -> Result<Vec<Verdict>> {
    context.sites.ensure(session, piece).await?;
    let mut careful = context.retry;
    if let Some(verdicts) = plainly(session, context, &lane.detour, piece, &mut careful).await? {
        return Ok(verdicts);
    }
    let mut extra = BTreeSet::new();
    if lane.look_ahead.load(Ordering::Relaxed) > 0 {
        let awaited = apply::awaited(piece);
        if !awaited.is_empty() {
            lane.look_ahead.fetch_sub(1, Ordering::Relaxed);
            extra.extend(waits::waiting_for(session, &awaited).await?.into_iter().map(|waiter| waiter.run));
        }
    }
    loop {
        match apply::transaction(session, context, piece, careful, &extra).await? {
            Applied::Done { verdicts, hints: more, awaited } => {
                if awaited {
                    lane.look_ahead.store(LOOK_AHEAD, Ordering::Relaxed);
                }
                hints.extend(more);
                return Ok(verdicts);
            }
            Applied::Again { careful: must, extra: also } => {
                if !also.is_empty() {
                    lane.look_ahead.store(LOOK_AHEAD, Ordering::Relaxed);
                }
                // Each round either starts to look or locks more: it ends.
                careful |= must;
                extra.extend(also);
            }
        }
    }
}

/// The forms that need no transaction. None: take the transaction; `careful` when something stood in the way.
async fn plainly(session: &mut Session, context: &Context<'_>, detour: &AtomicU32, piece: &[Write], careful: &mut bool) -> Result<Option<Vec<Verdict>>> {
    let starts: Vec<&NewRun> = piece.iter().map_while(|write| if let Write::Start(run) = write { Some(&**run) } else { None }).collect();
    let plain = if *careful { None } else { Plain::of(piece) };
    if plain.is_none() && starts.len() == piece.len() && starts.iter().all(|run| run.dedup.is_none()) {
        let first = starts::insert(session, context.incarnation, context.lane, &starts, !*careful).await;
        return match first {
            Err(error) if !*careful && is_duplicate(&error) => starts::insert(session, context.incarnation, context.lane, &starts, false).await.map(Some),
            first => first.map(Some),
        };
    }
    let (Some(incarnation), Some(mut plain)) = (context.incarnation, plain) else { return Ok(None) };
    if plain.only_steps() {
        // Row locks are taken in the order of the arrays: key order, as everywhere.
        plain.steps.sort_by_key(|row| row.run);
        if steps::insert_fenced(session, incarnation, context.lane, &plain.steps).await? == piece.len() as u64 {
            return Ok(Some(vec![Verdict::Committed; piece.len()]));
        }
        // Some are in by now and carry our token; the transaction tells them from the fenced and the foreign.
        *careful = true;
        return Ok(None);
    }
    // Ends with slots, or that somebody waits for, seldom come alone.
    if plain.has_ends() && detour.load(Ordering::Relaxed) > 0 {
        detour.fetch_sub(1, Ordering::Relaxed);
        return Ok(None);
    }
    match plain::write(session, incarnation, context.lane, &mut plain).await? {
        Written::All => {
            let verdict = |write: &Write| if matches!(write, Write::Start(_)) { Verdict::Started { claimed: true } } else { Verdict::Committed };
            return Ok(Some(piece.iter().map(verdict).collect()));
        }
        Written::Stands => *careful = true,
        Written::Nothing if plain.has_ends() => detour.store(DETOUR, Ordering::Relaxed),
        Written::Nothing => {}
    }
    Ok(None)
}
