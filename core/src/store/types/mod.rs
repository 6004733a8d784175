//! Domain types that cross the line between engine and store. The store returns these, never rows.

mod claim;
mod database;
mod run;
mod start;
mod view;
mod worker;
mod write;

pub use claim::*;
pub use database::*;
pub use run::*;
pub use start::*;
pub use view::*;
pub use worker::*;
pub use write::*;
