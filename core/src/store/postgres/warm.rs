//! Getting ready ahead of need: a connection takes a server process, and a statement's first use its parsing and its plan, together some 30 ms
//! that the first run of an idle process would wait for. Each statement is said once with empty arrays, which touch no row.

use uuid::Uuid;

use super::connect::Home;
use super::lock::LockSet;
use super::{PostgresStore, changes, claim, lock, plain, starts, steps};
use crate::store::Result;

/// `works`: runs will be claimed and recorded here too, not only started. A session is taken for one statement at a time, so that real work
/// that comes meanwhile waits for one of them at most.
pub(super) async fn warm(store: &PostgresStore, works: bool) -> Result<()> {
    if store.shared.pooled() {
        // Nothing is prepared there, and a server connection is not ours to keep.
        return Ok(());
    }
    let lanes = store.lanes.iter().map(|lane| warm_lane(store, &lane.home, works));
    futures_util::future::try_join_all(lanes).await?;
    store.hints.send(store, &[]).await?;
    if works {
        claim::warm(store).await?;
    }
    Ok(())
}

async fn warm_lane(store: &PostgresStore, home: &std::sync::Arc<Home>, works: bool) -> Result<()> {
    starts::warm(&mut home.session(&store.shared).await?).await?;
    if !works {
        return Ok(());
    }
    let nobody = Uuid::nil();
    plain::warm(&mut home.session(&store.shared).await?).await?;
    steps::insert_fenced(&mut home.session(&store.shared).await?, nobody, 0, &[]).await?;
    lock::take(&mut home.session(&store.shared).await?, None, 0, LockSet::default()).await?;
    steps::insert_held(&mut home.session(&store.shared).await?, nobody, &[], false).await?;
    changes::finish(&mut home.session(&store.shared).await?, None, &[], &[], false).await?;
    Ok(())
}
