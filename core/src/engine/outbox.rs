//! Events on their way to hosts: collected while locks are held, pushed once, one wake-up a client.

use std::sync::Arc;

use crate::protocol::client::{Client, Event};
use crate::protocol::ops::event;

#[derive(Default)]
pub struct Outbox {
    events: Vec<(Arc<Client>, Vec<Event>)>,
}

impl Outbox {
    pub fn push(&mut self, client: &Arc<Client>, event: Event) {
        match self.events.iter_mut().find(|(c, _)| Arc::ptr_eq(c, client)) {
            Some((_, events)) => events.push(event),
            None => self.events.push((client.clone(), vec![event])),
        }
    }

    pub fn complete(&mut self, client: &Arc<Client>, token: u64, frame: Vec<u8>) {
        if token != 0 {
            self.push(client, Event { token, kind: event::COMPLETED, frame });
        }
    }

    pub fn flush(&mut self) {
        for (client, events) in self.events.drain(..) {
            client.push_all(events);
        }
    }
}

impl Drop for Outbox {
    /// Nothing collected is ever lost, whichever way a function leaves.
    fn drop(&mut self) {
        self.flush();
    }
}
