//! The border: the only module bindings import. `core/docs/protocol.md` describes it; `core/ops.toml` and `core/errors.toml` are its tables.
//!
//! Handles are ids with a generation, never pointers: a stale one answers `closed`. Every entry catches panics: a bug in the engine is an
//! `internal` error, never a lost completion or a host process taken down.

pub mod client;
mod dispatch;
pub mod errors;
pub mod frame;
pub mod ops;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use client::{Event, FIRST_WAITED_TOKEN, TURN, Waker};
pub use frame::Value;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use errors::Code;

/// Of the frames, operations and events. A worker row carries it.
pub const VERSION: i32 = 1;

struct Open {
    engine: Arc<Engine>,
    runtime: tokio::runtime::Runtime,
}

struct Slot {
    generation: u32,
    open: Option<Arc<Open>>,
}

static SLOTS: RwLock<Vec<Slot>> = RwLock::new(Vec::new());

/// Threads of one engine's runtime: the database and memory are its work, and the host language needs the cores.
const RUNTIME_THREADS: usize = 2;

fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(EngineError::panicked(panic)))
}

fn find(handle: u64) -> Result<Arc<Open>, EngineError> {
    let slots = SLOTS.read().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.get((handle & 0xffff_ffff) as usize).filter(|s| u64::from(s.generation) == handle >> 32);
    slot.and_then(|s| s.open.clone()).ok_or_else(|| EngineError::plain(Code::Closed))
}

fn client_of(handle: u64, client: u32) -> Option<Arc<client::Client>> {
    find(handle).ok()?.engine.client(client)
}

/// Builds an engine. Connects nothing; its threads sleep until there is something to do.
pub fn open(config: &str) -> Result<u64, (String, String)> {
    let made = guarded(|| {
        let engine = Engine::open(config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("everstep")
            .enable_all()
            .build()
            .map_err(|e| EngineError::new(Code::Internal, format!("no runtime: {e}")))?;
        engine.set_runtime(runtime.handle().clone());
        Ok(Open { engine, runtime })
    });
    let open = made.map_err(|e| (e.code.as_str().to_owned(), e.message))?;
    let mut slots = SLOTS.write().unwrap_or_else(PoisonError::into_inner);
    let index = slots.iter().position(|s| s.open.is_none()).unwrap_or(slots.len());
    if index == slots.len() {
        slots.push(Slot { generation: 0, open: None });
    }
    let slot = &mut slots[index];
    slot.generation = slot.generation.wrapping_add(1).max(1);
    slot.open = Some(Arc::new(open));
    // Generations stay below 2^20, so that a handle is exact in a double.
    slot.generation &= 0xf_ffff;
    Ok((u64::from(slot.generation) << 32) | index as u64)
}

/// A completion queue for one event loop or thread environment.
pub fn attach(handle: u64, ordered: bool) -> Result<u32, (String, String)> {
    guarded(|| find(handle)?.engine.attach(ordered)).map_err(|e| (e.code.as_str().to_owned(), e.message))
}

/// Its loop or thread has gone: the queue and its descriptor are given back, what it waited for is forgotten. One with registered functions stays.
pub fn detach(handle: u64, client: u32) {
    if let Ok(open) = find(handle) {
        open.engine.detach(client);
    }
}

pub fn wake_fd(handle: u64, client: u32) -> Option<i32> {
    Some(client_of(handle, client)?.wake_fd())
}

/// Right after `attach`, for a host that has a wake-up of its own; it drains with `try_drain`.
pub fn set_waker(handle: u64, client: u32, waker: Waker) {
    if let Some(client) = client_of(handle, client) {
        client.set_waker(waker);
    }
}

pub fn clear_wake(handle: u64, client: u32) {
    if let Some(client) = client_of(handle, client) {
        client.clear_wake();
    }
}

/// In memory, never blocks. (0, answer) or (1, `[code, message]`).
pub fn call(handle: u64, op: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    match guarded(|| dispatch::call(&find(handle)?.engine, op, frame)) {
        Ok(answer) => (0, answer),
        Err(e) => (1, e.frame()),
    }
}

/// Never blocks; the answer is an event with this token. On a closed engine there is no queue to answer on: false.
pub fn submit(handle: u64, client: u32, token: u64, op: u32, frame: &[u8]) -> bool {
    let Ok(open) = find(handle) else { return false };
    let Some(queue) = open.engine.client(client) else { return false };
    if let Err(e) = guarded(|| dispatch::submit(&open.engine, &queue, token, op, frame)) {
        queue.push_all([Event { token, kind: ops::event::FAILED, frame: e.frame() }]);
    }
    true
}

pub fn try_drain(handle: u64, client: u32, max: usize) -> Vec<Event> {
    client_of(handle, client).map(|c| c.try_drain(max)).unwrap_or_default()
}

pub fn drain(handle: u64, client: u32, max: usize, timeout: Duration) -> Vec<Event> {
    client_of(handle, client).map(|c| c.drain(max, timeout)).unwrap_or_default()
}

/// Blocks for the event of one token (from `FIRST_WAITED_TOKEN` on).
pub fn wait(handle: u64, client: u32, token: u64, timeout: Duration) -> Option<Event> {
    client_of(handle, client)?.wait(token, timeout)
}

pub fn cancel(handle: u64, client: u32, token: u64) {
    let Ok(open) = find(handle) else { return };
    if let Some(client) = open.engine.client(client) {
        open.engine.give_up(&client, token);
    }
}

/// Events as one block of bytes: u64 token, u32 kind, u32 length, frame, little-endian, one after another.
pub fn pack(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.iter().map(|e| e.frame.len() + 16).sum());
    for e in events {
        out.extend_from_slice(&e.token.to_le_bytes());
        out.extend_from_slice(&e.kind.to_le_bytes());
        out.extend_from_slice(&(e.frame.len() as u32).to_le_bytes());
        out.extend_from_slice(&e.frame);
    }
    out
}

/// Drain within the deadline, then end everything. The handle is dead afterwards. Blocks: a host with a lock of its own lets it go first.
pub fn close(handle: u64, deadline: Duration) {
    let taken = {
        let mut slots = SLOTS.write().unwrap_or_else(PoisonError::into_inner);
        slots.get_mut((handle & 0xffff_ffff) as usize).filter(|s| u64::from(s.generation) == handle >> 32).and_then(|s| s.open.clone())
    };
    let Some(open) = taken else { return };
    let engine = open.engine.clone();
    // The handle still answers while its runs finish.
    open.runtime.block_on(engine.drain(deadline));
    open.runtime.block_on(engine.finish());
    let mut slots = SLOTS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(slot) = slots.get_mut((handle & 0xffff_ffff) as usize) {
        slot.open = None;
    }
    drop(slots);
    drop(engine);
    if let Some(open) = Arc::into_inner(open) {
        open.runtime.shutdown_timeout(Duration::from_millis(500));
    }
}
