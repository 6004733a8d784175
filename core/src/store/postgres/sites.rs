//! Sites and routes are rows that never change: written before they are first used, remembered after. Not for good: after a failover that lost the last
//! commits, or a restore under a running process, the server does not hold what it was told. Such a server is met by a new connection, and each
//! makes the memory start afresh.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connect::{Session, Shared};
use super::rows::read;
use crate::store::{Effect, MOST_NAMES, NewRun, Result, Route, Site, Write};

/// Names of steps may be made at run time; past this many the memory starts afresh.
const REMEMBERED: usize = 50_000;

const INSERT_SITES: &str = "\
insert into {s}.site (id, name, location) select * from unnest($1::bigint[], $2::text[], $3::text[]) on conflict do nothing";

const INSERT_ROUTES: &str = "\
insert into {s}.route (id, namespace, queue, workflow, label)
select u.id, $5, u.queue, u.workflow, u.label from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) as u(id, queue, workflow, label)
on conflict do nothing";

const READ_SITES: &str = "\
select s.id, s.name, s.location from unnest($1::bigint[]) as u(id)
cross join lateral (select * from {s}.site s where s.id = u.id offset 0) s";

const READ_ROUTES: &str = "\
select r.id, r.queue, r.workflow, r.label from unnest($1::bigint[]) as u(id)
cross join lateral (select * from {s}.route r where r.id = u.id offset 0) r";

const WORKFLOWS: &str = "select distinct r.workflow from {s}.route r where r.namespace = $1 order by r.workflow limit $2";

pub(super) async fn workflow_names(session: &mut Session) -> Result<Vec<String>> {
    let statement = session.q(WORKFLOWS).bind(session.shared.namespace.clone()).bind(MOST_NAMES);
    session.rows(statement).await?.iter().map(|row| read(row.try_get(0))).collect()
}

#[derive(Default)]
struct Known {
    sites: HashMap<i64, Site>,
    routes: HashMap<i64, Route>,
    /// Connections that had been opened when it was begun.
    opened: u64,
}

#[derive(Default)]
pub(super) struct Sites {
    known: Mutex<Known>,
}

impl Sites {
    fn known(&self, shared: &Shared) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.opened != shared.opened() || known.sites.len() > REMEMBERED {
            *known = Known { opened: shared.opened(), ..Known::default() };
        }
        known
    }

    /// `since`: how many connections had been opened when this was written or read.
    fn remember(&self, shared: &Shared, since: u64, sites: Vec<Site>, routes: Vec<Route>) {
        let mut known = self.known(shared);
        if known.opened == since {
            known.sites.extend(sites.into_iter().map(|site| (site.id, site)));
            known.routes.extend(routes.into_iter().map(|route| (route.id, route)));
        }
    }

    /// Write what this batch names and nobody of this process has written yet. A commit of its own, before the batch: inside the batch's
    /// transaction two processes that meet at a new name and at a run row could wait for each other.
    pub(super) async fn ensure(&self, session: &mut Session, writes: &[Write]) -> Result<()> {
        let (mut sites, mut routes) = (HashMap::new(), HashMap::new());
        {
            let known = self.known(&session.shared);
            let mut site = |site: &Site| {
                if !known.sites.contains_key(&site.id) {
                    sites.insert(site.id, site.clone());
                }
            };
            let mut route = |run: &NewRun| {
                if !known.routes.contains_key(&run.route.id) {
                    routes.insert(run.route.id, run.route.clone());
                }
            };
            for write in writes {
                match write {
                    Write::Start(run) => route(run),
                    Write::Step { step, .. } => {
                        site(&step.site);
                        step.effects.iter().for_each(|effect| {
                            if let Effect::StartChild(child) = effect {
                                route(child);
                            }
                        });
                    }
                    Write::Attempt { site: at, .. } | Write::Wait { site: at, .. } => site(at),
                    Write::Outcome { then: Some(then), .. } => route(then),
                    _ => {}
                }
            }
        }
        if !sites.is_empty() {
            let sites: Vec<Site> = sites.into_values().collect();
            self.write_sites(session, sites).await?;
        }
        if !routes.is_empty() {
            self.write_routes(session, routes.into_values().collect()).await?;
        }
        Ok(())
    }

    /// Whether this process has written it: then no connection is needed for it.
    pub(super) fn remembers(&self, shared: &Shared, site: &Site) -> bool {
        self.known(shared).sites.contains_key(&site.id)
    }

    pub(super) async fn write_sites(&self, session: &mut Session, mut sites: Vec<Site>) -> Result<()> {
        sites.sort_by_key(|site| site.id);
        let since = session.shared.opened();
        let statement = session
            .q(INSERT_SITES)
            .bind(sites.iter().map(|s| s.id).collect::<Vec<_>>())
            .bind(sites.iter().map(|s| s.name.to_string()).collect::<Vec<_>>())
            .bind(sites.iter().map(|s| s.location.to_string()).collect::<Vec<_>>());
        session.run(statement).await?;
        self.remember(&session.shared, since, sites, Vec::new());
        Ok(())
    }

    /// Routes of workflows nobody has started yet.
    pub(super) async fn announce(&self, session: &mut Session, routes: &[Route]) -> Result<()> {
        if routes.is_empty() { Ok(()) } else { self.write_routes(session, routes.to_vec()).await }
    }

    async fn write_routes(&self, session: &mut Session, mut routes: Vec<Route>) -> Result<()> {
        routes.sort_by_key(|route| route.id);
        let since = session.shared.opened();
        let namespace = session.shared.namespace.clone();
        insert_routes(session, &namespace, &routes).await?;
        self.remember(&session.shared, since, Vec::new(), routes);
        Ok(())
    }

    /// The sites that column `at` of these rows names.
    pub(super) async fn of_rows(&self, session: &mut Session, rows: &[PgRow], at: usize) -> Result<HashMap<i64, Site>> {
        let ids = rows.iter().map(|row| read(row.try_get::<i64, _>(at))).collect::<Result<HashSet<i64>>>()?;
        self.named(session, ids).await
    }

    pub(super) async fn named(&self, session: &mut Session, ids: HashSet<i64>) -> Result<HashMap<i64, Site>> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        {
            let known = self.known(&session.shared);
            for id in ids {
                match known.sites.get(&id) {
                    Some(site) => drop(found.insert(id, site.clone())),
                    None => unknown.push(id),
                }
            }
        }
        if !unknown.is_empty() {
            let (since, mut read_now) = (session.shared.opened(), Vec::new());
            for row in session.rows(session.q(READ_SITES).bind(&unknown)).await? {
                let (name, location): (String, String) = (read(row.try_get(1))?, read(row.try_get(2))?);
                read_now.push(Site { id: read(row.try_get(0))?, name: name.into(), location: location.into() });
            }
            found.extend(read_now.iter().map(|site| (site.id, site.clone())));
            self.remember(&session.shared, since, read_now, Vec::new());
        }
        Ok(found)
    }

    pub(super) async fn routes(&self, session: &mut Session, ids: HashSet<i64>) -> Result<HashMap<i64, Route>> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        {
            let known = self.known(&session.shared);
            for id in ids {
                match known.routes.get(&id) {
                    Some(route) => drop(found.insert(id, route.clone())),
                    None => unknown.push(id),
                }
            }
        }
        if !unknown.is_empty() {
            let since = session.shared.opened();
            for row in session.rows(session.q(READ_ROUTES).bind(&unknown)).await? {
                let route = Route { id: read(row.try_get(0))?, queue: read(row.try_get(1))?, workflow: read(row.try_get(2))?, label: read(row.try_get(3))? };
                found.insert(route.id, route);
            }
            self.remember(&session.shared, since, Vec::new(), found.values().cloned().collect());
        }
        Ok(found)
    }
}
/// In a transaction that may be rolled back: not remembered.
pub(super) async fn insert_routes(session: &mut Session, namespace: &str, routes: &[Route]) -> Result<()> {
    let statement = session
        .q(INSERT_ROUTES)
        .bind(routes.iter().map(|r| r.id).collect::<Vec<_>>())
        .bind(routes.iter().map(|r| r.queue.clone()).collect::<Vec<_>>())
        .bind(routes.iter().map(|r| r.workflow.clone()).collect::<Vec<_>>())
        .bind(routes.iter().map(|r| r.label.clone()).collect::<Vec<_>>())
        .bind(namespace);
    session.run(statement).await.map(|_| ())
}
