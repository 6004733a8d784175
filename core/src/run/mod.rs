//! One execution of one run: its calls, their order, their waits, its end. Everything here is in memory; what is to be stored goes to the
//! engine's committer as a [`crate::store::Write`] and comes back as a verdict.

pub mod begin;
pub mod effects;
pub mod exec;
pub mod finish;
pub mod groups;
pub mod history;
mod job;
pub mod refused;
pub mod rehearse;
pub mod retry;
pub mod text;
pub mod timers;
pub mod transactions;
pub mod verdict;
pub mod waits;
