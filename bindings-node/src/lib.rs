//! The functions of `core/docs/protocol.md` for Node, one for one. Nothing here knows an operation, so nothing here changes when one is added.
//!
//! No thread of the engine calls into JavaScript. Whichever thread adds to an empty completion queue wakes the event loop through a weak ThreadsafeFunction,
//! which keeps neither the loop nor the process alive, and the loop takes what is there by then: one batch is one callback, however many events it holds.
//! A thread in between that waits in `drain` costs each lone step a hop more, and each idle process its wake-ups.
//! A promise a call (`#[napi] async fn`) costs twice as much an operation, and its completions come one by one.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use everstep::protocol;
use napi::bindgen_prelude::{AsyncTask, Buffer, Either, Function, Uint8ArraySlice};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Task};
use napi_derive::napi;

type Result<T> = std::result::Result<T, napi::Error<String>>;

/// Events a batch holds at most.
const BATCH: usize = 4096;

/// A terminated worker thread waits so long for its engine to hand its runs over.
const HAND_OVER: Duration = Duration::from_secs(2);

fn refusal((code, message): (String, String)) -> napi::Error<String> {
    napi::Error::new(code, message)
}

fn broken(error: &dyn std::fmt::Display) -> napi::Error<String> {
    napi::Error::new("internal".to_owned(), error.to_string())
}

/// Number of the border this library speaks; the JavaScript beside it was generated for one.
#[napi(catch_unwind)]
pub fn abi() -> i32 {
    protocol::VERSION
}

/// `ends_with_thread`: a worker thread can be terminated while its process lives on. Its engine must then give its runs back, or nobody runs them while its
/// lease is renewed. The main thread ends with its process, where a run cut short must count as what it is: a crash.
#[napi(catch_unwind)]
pub fn open(env: Env, config: String, ends_with_thread: bool) -> Result<f64> {
    let handle = protocol::open(&config).map_err(refusal)?;
    if ends_with_thread {
        env.add_env_cleanup_hook(handle, hand_over).map_err(|error| broken(&error))?;
    }
    Ok(handle as f64)
}

fn hand_over(handle: u64) {
    let (done, wait) = mpsc::channel();
    // A thread of its own: closing blocks on the database, and a database that hangs must not hang the termination.
    let closing = thread::Builder::new().name("everstep-end".into()).spawn(move || {
        protocol::close(handle, Duration::ZERO);
        // Nobody listens any more when it took too long.
        let _ = done.send(());
    });
    if closing.is_ok() {
        let _ = wait.recv_timeout(HAND_OVER);
    }
}

/// A completion queue for this environment. `on_events` gets packed batches; an empty one says nothing.
#[napi(catch_unwind)]
pub fn attach(handle: f64, ordered: bool, on_events: Function<'_, Buffer, ()>) -> Result<u32> {
    let handle = handle as u64;
    let client = protocol::attach(handle, ordered).map_err(refusal)?;
    let wake = on_events
        .build_threadsafe_function::<()>()
        .weak::<true>()
        .callee_handled::<false>()
        .build_callback(move |_| Ok(Buffer::from(protocol::pack(&protocol::try_drain(handle, client, BATCH)))))
        .map_err(|error| broken(&error))?;
    protocol::set_waker(
        handle,
        client,
        Box::new(move || {
            // Refused only when the environment is going down, and nobody is left to be told.
            let _ = wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }),
    );
    Ok(client)
}

/// In memory, never blocks. What comes back is a status byte and the answer's frame: written into `answer`, its length returned; or, where it does not fit, a
/// buffer of its own. A fresh buffer for each answer costs more than the whole call.
#[napi(catch_unwind)]
pub fn call(handle: f64, op: u32, frame: &[u8], length: u32, mut answer: Uint8ArraySlice<'_>) -> Either<u32, Buffer> {
    let (status, bytes) = protocol::call(handle as u64, op, frame.get(..length as usize).unwrap_or(frame));
    let needed = bytes.len() + 1;
    // SAFETY: the array is ours (lib/frame.ts), this is its own thread, and no JavaScript runs before this function returns.
    if let Some(room) = unsafe { answer.as_mut() }.get_mut(..needed) {
        room[0] = status as u8;
        room[1..].copy_from_slice(&bytes);
        return Either::A(needed as u32);
    }
    let mut whole = Vec::with_capacity(needed);
    whole.push(status as u8);
    whole.extend_from_slice(&bytes);
    Either::B(Buffer::from(whole))
}

/// False: the engine is closed, there is no queue to answer on.
#[napi(catch_unwind)]
pub fn submit(handle: f64, client: u32, token: f64, op: u32, frame: &[u8], length: u32) -> bool {
    protocol::submit(handle as u64, client, token as u64, op, frame.get(..length as usize).unwrap_or(frame))
}

#[napi(catch_unwind)]
pub fn cancel(handle: f64, client: u32, token: f64) {
    protocol::cancel(handle as u64, client, token as u64);
}

pub struct Closing {
    handle: u64,
    deadline: Duration,
}

impl Task for Closing {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> napi::Result<()> {
        protocol::close(self.handle, self.deadline);
        Ok(())
    }

    fn resolve(&mut self, _env: Env, (): ()) -> napi::Result<()> {
        Ok(())
    }
}

/// Off the event loop. The handle is dead once the promise is settled.
#[napi(catch_unwind)]
pub fn close(handle: f64, deadline_ms: f64) -> AsyncTask<Closing> {
    AsyncTask::new(Closing { handle: handle as u64, deadline: Duration::from_millis(deadline_ms as u64) })
}

/// At the end of the process, where no promise is settled any more: blocks.
#[napi(catch_unwind)]
pub fn close_now(handle: f64) {
    protocol::close(handle as u64, Duration::ZERO);
}
