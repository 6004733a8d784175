//! The cross-language suite: private database clusters, a fault proxy, scenarios as data with a runner that owns processes and faults,
//! and the audit that decides whether anything was lost or done twice. `core/docs/recovery.md` names what it proves.

pub mod audit;
pub mod chaos;
pub mod cluster;
pub mod database;
pub mod event_log;
pub mod faults;
pub mod pooler;
pub mod proxy;
pub mod random;
pub mod runner;
pub mod scenario;
pub mod stage;
pub mod worker;
