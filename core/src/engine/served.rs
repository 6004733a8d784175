//! What this process can take: its routes, worked out once and again when a registration or a queue changes. A hint for anything else is not for us.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Engine, identity};
use crate::store::Route;

#[derive(Default)]
pub struct Served {
    /// By client, queues that are paused left out.
    pub by_client: Vec<(u32, Vec<Route>)>,
    /// All of these routes, and the queues' own numbers.
    heard: HashSet<i64>,
    /// The same routes, for a look; those of queues with a limit apart: somebody may well wait there for good reason.
    pub routes: Vec<i64>,
    pub limited: Vec<i64>,
}

impl Served {
    pub fn hears(&self, number: i64) -> bool {
        self.heard.contains(&number)
    }
}

#[derive(Default)]
pub struct ServedNow {
    known: Mutex<Option<Arc<Served>>>,
}

impl ServedNow {
    /// After the change, never before it: what is worked out next must see it.
    pub fn changed(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Engine {
    pub fn served(&self) -> Arc<Served> {
        let mut known = self.served.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| Arc::new(self.work_out_served())).clone()
    }

    fn work_out_served(&self) -> Served {
        let namespace = &self.config.store.namespace;
        let mut workflows: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (name, r) in self.registry.read().unwrap_or_else(PoisonError::into_inner).iter() {
            workflows.entry(r.client).or_default().push(name.clone());
        }
        let mut queues = match &self.config.queues {
            Some(served) => served.clone(),
            None => self.queues.names(),
        };
        queues.push(String::new());
        let labels = self.claims.labels();
        let mut served = Served::default();
        for queue in queues.iter().filter(|queue| !self.queues.get(queue).is_some_and(|q| q.paused)) {
            served.heard.insert(identity::queue_number(namespace, queue));
        }
        for (client, workflows) in workflows {
            let mut routes = Vec::with_capacity(queues.len() * workflows.len());
            for queue in queues.iter().filter(|queue| !self.queues.get(queue).is_some_and(|q| q.paused)) {
                let free = self.queues.is_free(queue);
                for workflow in &workflows {
                    for label in std::iter::once("").chain(labels.iter().map(String::as_str)) {
                        let route = identity::route(namespace, queue, workflow, label);
                        served.heard.insert(route.id);
                        if free { &mut served.routes } else { &mut served.limited }.push(route.id);
                        routes.push(route);
                    }
                }
            }
            served.by_client.push((client, routes));
        }
        served
    }
}
