//! The cross-language suite: private database clusters, a fault proxy, scenarios as data with a runner that owns processes and faults,
//! and the audit that decides whether anything was lost or done twice. `core/docs/recovery.md` names what it proves.

pub mod audit;
pub mod cluster;
pub mod database;
pub mod event_log;
pub mod pooler;
pub mod proxy;
pub mod runner;
pub mod scenario;
pub mod stage;
pub mod worker;
