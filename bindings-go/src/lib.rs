//! The functions of `core/docs/protocol.md` for Go, one for one: sync, over handles and bytes. Nothing here knows an operation, so nothing here
//! changes when one is added.
//!
//! uniffi's scaffolding and no objects, async exports or foreign traits: every one of those has Rust call into Go, from a thread Go did not make, or
//! has Go hold what Rust must free. The other side, `internal/ffi`, is written by hand; `tests/symbols.rs` keeps the two together.

use std::time::Duration;

use everstep::protocol;

/// What every symbol of this library begins with, after its kind.
pub const NAMESPACE: &str = "everstep_go";

uniffi::setup_scaffolding!("everstep_go");

/// An answer `[code, message]` of the engine.
#[derive(Debug, uniffi::Error)]
pub enum Refused {
    Engine { code: String, message: String },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Refused::Engine { code, message } = self;
        write!(f, "{code}: {message}")
    }
}

impl std::error::Error for Refused {}

fn refusal((code, message): (String, String)) -> Refused {
    Refused::Engine { code, message }
}

/// The version both sides were built as, and the protocol's: `0.1.0/1`.
#[uniffi::export]
fn abi() -> Vec<u8> {
    format!("{}/{}", env!("CARGO_PKG_VERSION"), protocol::VERSION).into_bytes()
}

#[uniffi::export]
fn open(config: &[u8]) -> Result<u64, Refused> {
    let config = std::str::from_utf8(config).map_err(|_| refusal(("config_invalid".into(), "the configuration is not UTF-8".into())))?;
    protocol::open(config).map_err(refusal)
}

/// Go has no raw concurrency inside a run, so its clients are unordered: recorded answers come at once.
#[uniffi::export]
fn attach(handle: u64) -> Result<u32, Refused> {
    protocol::attach(handle, false).map_err(refusal)
}

/// -1: there is no such client.
#[uniffi::export]
fn wake_fd(handle: u64, client: u32) -> i32 {
    protocol::wake_fd(handle, client).unwrap_or(-1)
}

/// The status in the first byte, then the frame.
#[uniffi::export]
fn call(handle: u64, op: u32, frame: &[u8]) -> Vec<u8> {
    let (status, answer) = protocol::call(handle, op, frame);
    let mut out = Vec::with_capacity(answer.len() + 1);
    out.push(status as u8);
    out.extend_from_slice(&answer);
    out
}

#[uniffi::export]
fn submit(handle: u64, client: u32, token: u64, op: u32, frame: &[u8]) -> bool {
    protocol::submit(handle, client, token, op, frame)
}

/// Packed events; empty when there are none.
#[uniffi::export]
fn try_drain(handle: u64, client: u32, max: u32) -> Vec<u8> {
    protocol::pack(&protocol::try_drain(handle, client, max as usize))
}

#[uniffi::export]
fn cancel(handle: u64, client: u32, token: u64) {
    protocol::cancel(handle, client, token);
}

/// Blocks; the only one that does.
#[uniffi::export]
fn close(handle: u64, deadline_ms: u64) {
    protocol::close(handle, Duration::from_millis(deadline_ms));
}
