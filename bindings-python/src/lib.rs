//! `everstep._native`: the functions of `core/docs/protocol.md`, one for one. Nothing here knows an operation, so nothing here changes when one is added.
//!
//! Rust never calls into Python: Python waits on the wake fd or in `drain` and `wait`, and a thread of the engine never takes the GIL. A Rust thread that
//! does was seen to hold up the engine's timers by 250 ms during one long Python call, which is how leases are lost.

mod frame;

use std::time::{Duration, Instant};

use everstep::protocol::{self, Event};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

create_exception!(everstep._native, NativeError, PyException, "An answer `[code, message]` of the engine.");

/// A blocked main thread looks for Ctrl-C this often.
const SLICE: Duration = Duration::from_millis(100);

fn refused(code: &str, message: &str) -> PyErr {
    NativeError::new_err((code.to_owned(), message.to_owned()))
}

fn refusal((code, message): (String, String)) -> PyErr {
    refused(&code, &message)
}

fn to_python<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    let values = frame::unpack(py, &event.frame)?;
    (event.token, event.kind, values).into_pyobject(py)
}

fn all_to_python<'py>(py: Python<'py>, events: Vec<Event>) -> PyResult<Bound<'py, PyList>> {
    let events = events.into_iter().map(|event| to_python(py, event)).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, events)
}

/// Waits with the GIL released. `interruptible`: in slices, between which pending signals are handled, which may raise.
fn sliced<T>(py: Python<'_>, timeout_ms: u64, interruptible: bool, wait: impl Fn(Duration) -> Option<T> + Send + Sync) -> PyResult<Option<T>>
where
    T: Send,
{
    let timeout = Duration::from_millis(timeout_ms);
    let end = Instant::now() + timeout;
    loop {
        let slice = if interruptible { SLICE } else { timeout }.min(end.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        if let Some(found) = py.detach(|| wait(slice)) {
            return Ok(Some(found));
        }
        py.check_signals()?;
        // Back before its time with nothing: there is no such queue any more. The caller finds out why.
        if Instant::now() >= end || asked.elapsed() < slice / 2 {
            return Ok(None);
        }
    }
}

#[pymodule]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::NativeError;

    #[pyfunction]
    fn open(config: &str) -> PyResult<u64> {
        protocol::open(config).map_err(refusal)
    }

    #[pyfunction]
    fn attach(handle: u64, ordered: bool) -> PyResult<u32> {
        protocol::attach(handle, ordered).map_err(refusal)
    }

    #[pyfunction]
    fn detach(handle: u64, client: u32) {
        protocol::detach(handle, client);
    }

    #[pyfunction]
    fn wake_fd(handle: u64, client: u32) -> Option<i32> {
        protocol::wake_fd(handle, client)
    }

    #[pyfunction]
    fn clear_wake(handle: u64, client: u32) {
        protocol::clear_wake(handle, client);
    }

    #[pyfunction]
    fn call<'py>(py: Python<'py>, handle: u64, op: u32, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
        let (status, answer) = protocol::call(handle, op, &frame::pack(arguments)?);
        let values = frame::unpack(py, &answer)?;
        if status == 0 { Ok(values) } else { Err(NativeError::new_err(values.unbind())) }
    }

    #[pyfunction]
    fn submit(handle: u64, client: u32, token: u64, op: u32, arguments: &Bound<'_, PyTuple>) -> PyResult<()> {
        if protocol::submit(handle, client, token, op, &frame::pack(arguments)?) { Ok(()) } else { Err(refused("closed", "the engine is closed")) }
    }

    #[pyfunction]
    fn try_drain<'py>(py: Python<'py>, handle: u64, client: u32, max: usize) -> PyResult<Bound<'py, PyList>> {
        all_to_python(py, protocol::try_drain(handle, client, max))
    }

    #[pyfunction]
    fn drain<'py>(py: Python<'py>, handle: u64, client: u32, max: usize, timeout_ms: u64) -> PyResult<Bound<'py, PyList>> {
        let events = sliced(py, timeout_ms, false, |slice| {
            let events = protocol::drain(handle, client, max, slice);
            (!events.is_empty()).then_some(events)
        })?;
        all_to_python(py, events.unwrap_or_default())
    }

    #[pyfunction]
    fn wait<'py>(py: Python<'py>, handle: u64, client: u32, token: u64, timeout_ms: u64, interruptible: bool) -> PyResult<Option<Bound<'py, PyTuple>>> {
        sliced(py, timeout_ms, interruptible, |slice| protocol::wait(handle, client, token, slice))?.map(|event| to_python(py, event)).transpose()
    }

    /// The values of a frame inside a frame (the verdict a `turn` brings).
    #[pyfunction]
    fn unpack<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
        crate::frame::unpack(py, frame)
    }

    #[pyfunction]
    fn cancel(handle: u64, client: u32, token: u64) {
        protocol::cancel(handle, client, token);
    }

    #[pyfunction]
    fn close(py: Python<'_>, handle: u64, deadline_ms: u64) {
        py.detach(|| protocol::close(handle, Duration::from_millis(deadline_ms)));
    }
}
