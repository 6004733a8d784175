//! Everstep: durable workflows on PostgreSQL or SQLite, in your own process. This crate is the engine; `ARCHITECTURE.md` says who owns what.
#![forbid(unsafe_code)]

#[macro_use]
pub mod failpoint;
mod engine;
mod key_map;
pub mod protocol;
mod run;
pub mod store;
