//! Whose turn it is: one connection that writes, a few that read.
//!
//! SQLite has one writer at a time per file, so a second write connection in this process would only contend with the first: every
//! write of the process goes through one connection behind a fair lock. Other processes are met at BEGIN IMMEDIATE and nowhere else:
//! once it has answered, nothing in the transaction can be busy, and all that was read inside it is exact.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::connection::{BUSY_FOR, Connection, Location, pause};
use crate::store::{FollowUp, Result, StoreError};

/// A place for a connection, opened at first use and again after it broke.
pub(super) struct Place {
    location: Location,
    busy: Duration,
    follow_up: FollowUp,
    connection: Option<Connection>,
    closed: bool,
}

impl Place {
    pub(super) fn new(location: Location, busy: Duration, follow_up: FollowUp) -> Arc<Mutex<Place>> {
        Arc::new(Mutex::new(Place { location, busy, follow_up, connection: None, closed: false }))
    }

    /// Fit for use: whatever a dropped future left behind is undone first.
    async fn ready(&mut self) -> Result<()> {
        if self.closed {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        if let Some(connection) = &mut self.connection {
            let tidy = tidy(connection).await;
            // In memory the connection is the database; a file can be opened again.
            match (&self.location, tidy) {
                (Location::Memory, tidy) => return tidy,
                (Location::File(_), Ok(())) if !connection.broken => {}
                (Location::File(_), _) => self.connection = None,
            }
        }
        if self.connection.is_none() {
            self.connection = Some(Connection::connect(&self.location, self.busy, self.follow_up).await?);
        }
        Ok(())
    }

    /// For good: a store that is closed must not make its file again.
    pub(super) async fn close(&mut self) {
        self.closed = true;
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

async fn tidy(connection: &mut Connection) -> Result<()> {
    if connection.limited {
        connection.set_deadline(None).await?;
    }
    if connection.open {
        connection.rollback().await?;
    }
    Ok(())
}

/// A connection for as long as it is held. The order of the fields is the order of release.
pub(super) struct Held {
    place: OwnedMutexGuard<Place>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Held {
    pub(super) async fn take(place: &Arc<Mutex<Place>>, turn: Option<OwnedMutexGuard<()>>) -> Result<Held> {
        let mut place = place.clone().lock_owned().await;
        place.ready().await?;
        Ok(Held { place, _turn: turn })
    }

    /// None: somebody else has it.
    pub(super) async fn take_free(place: &Arc<Mutex<Place>>) -> Option<Result<Held>> {
        let mut place = place.clone().try_lock_owned().ok()?;
        Some(place.ready().await.map(|()| Held { place, _turn: None }))
    }

    /// A transaction that writes. Waits for other processes with jitter, then says `Conflict`.
    pub(super) async fn begin_write(mut self) -> Result<Transaction> {
        let until = Instant::now() + BUSY_FOR;
        let mut tries = 0;
        loop {
            match self.begin("begin immediate").await {
                Ok(()) => return Ok(Transaction { held: Some(self) }),
                Err(StoreError::Conflict(_)) if Instant::now() < until => {
                    tries += 1;
                    pause(tries).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Several reads of one state.
    pub(super) async fn begin_read(mut self) -> Result<Transaction> {
        self.begin("begin").await?;
        Ok(Transaction { held: Some(self) })
    }
}

impl Deref for Held {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        // `ready` gives out none without a connection, and nothing removes it while it is held.
        self.place.connection.as_ref().expect("a held place has its connection")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Connection {
        self.place.connection.as_mut().expect("a held place has its connection")
    }
}

/// Between BEGIN and COMMIT. Dropped without either it is rolled back at once, not by the next who comes: until then no other process
/// can write, and no checkpoint gets past what it reads.
pub(super) struct Transaction {
    /// None only while it is being dropped or finished.
    held: Option<Held>,
}

impl Transaction {
    /// COMMIT what went well; ROLLBACK what did not.
    pub(super) async fn finish<T>(mut self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Ok(value) => match self.commit().await {
                Ok(()) => Ok(value),
                Err(e) => {
                    self.rollback().await?;
                    Err(e)
                }
            },
            Err(e) => {
                // The first error says why; what a failed ROLLBACK leaves open, the next holder tidies.
                drop(self.rollback().await);
                Err(e)
            }
        }
    }

    pub(super) async fn roll_back(mut self) -> Result<()> {
        self.rollback().await
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(mut held) = self.held.take()
            && (held.open || held.limited)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { drop(tidy(&mut held).await) });
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.held.as_ref().expect("held until it is finished")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        self.held.as_mut().expect("held until it is finished")
    }
}
