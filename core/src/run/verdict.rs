//! The frames of the answers that tell the host what to do next (`core/docs/protocol.md`, "Verdicts").

use crate::protocol::frame::Writer;
use crate::protocol::ops::verdict;

pub fn recorded(failed: bool, value: Option<&[u8]>, seq: i32) -> Vec<u8> {
    let mut w = Writer::new();
    w.int(verdict::RECORDED).bool(failed).opt_bytes(value).int(seq.into());
    w.finish()
}

pub fn run(seq: i32, attempt: i32, idempotency_key: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.int(verdict::RUN).int(seq.into()).int(attempt.into()).str(idempotency_key);
    w.finish()
}

pub fn pending(turn: bool, seq: i32) -> Vec<u8> {
    let mut w = Writer::new();
    w.int(verdict::PENDING).bool(turn).int(seq.into());
    w.finish()
}

pub fn stopped(why: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.int(verdict::STOPPED).str(why);
    w.finish()
}

pub fn cancelled(by: &str, why: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.int(verdict::CANCELLED).str(by).str(why);
    w.finish()
}
