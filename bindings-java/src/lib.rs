//! The functions of `core/docs/protocol.md` for Java: `static native` methods of the class `dev.everstep.Native`, over `long` and `byte[]`.
//!
//! Rust never calls into Java: a thread of Java's own waits in `drain` and hands out what it finds. So no thread of the engine is ever attached to the
//! virtual machine: an attached one would keep it from exiting, and attaching for each call costs a hundred times the call itself.
//!
//! Answers that may be errors begin with a byte: 0, then the operation's frame, or 1, then the frame `[code, message]`. An exception crosses only when
//! memory is out or this glue is wrong.

use std::time::Duration;

use everstep::protocol::{self, frame::Writer};
use jni::EnvUnowned;
use jni::errors::{Result, ThrowRuntimeExAndDefault};
use jni::objects::{JByteArray, JClass};
use jni::sys::{jboolean, jint, jlong};
use jni::{Env, jni_mangle};

/// The first `length` bytes of `array`: the caller's buffer may be longer than its frame.
fn read(env: &Env<'_>, array: &JByteArray<'_>, length: jint) -> Result<Vec<u8>> {
    let mut bytes = vec![0_i8; usize::try_from(length).unwrap_or_default()];
    array.get_region(env, 0, &mut bytes)?;
    // SAFETY: i8 and u8 have one size and alignment, and the vector is given up whole.
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    Ok(unsafe { Vec::from_raw_parts(bytes.as_mut_ptr().cast::<u8>(), bytes.len(), bytes.capacity()) })
}

fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: the same memory, read as the signed bytes Java has.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), bytes.len()) }
}

fn write<'local>(env: &mut Env<'local>, bytes: &[u8]) -> Result<JByteArray<'local>> {
    let array = JByteArray::new(env, bytes.len())?;
    array.set_region(env, 0, signed(bytes))?;
    Ok(array)
}

fn answer<'local>(env: &mut Env<'local>, status: u32, frame: &[u8]) -> Result<JByteArray<'local>> {
    let array = JByteArray::new(env, frame.len() + 1)?;
    array.set_region(env, 0, &[i8::from(status != 0)])?;
    array.set_region(env, 1, signed(frame))?;
    Ok(array)
}

fn answer_of<'local>(env: &mut Env<'local>, outcome: std::result::Result<i64, (String, String)>) -> Result<JByteArray<'local>> {
    let mut frame = Writer::new();
    let status = match outcome {
        Ok(number) => {
            frame.int(number);
            0
        }
        Err((code, message)) => {
            frame.str(&code).str(&message);
            1
        }
    };
    answer(env, status, &frame.finish())
}

fn duration(milliseconds: jlong) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}

// Handles have a generation below 2^20 in their upper half and tokens stay below 2^53: both are exact and positive as `long`. A negative one is no id.
const fn id(number: jlong) -> u64 {
    number as u64
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn open<'local>(mut unowned: EnvUnowned<'local>, _: JClass<'local>, config: JByteArray<'local>, length: jint) -> JByteArray<'local> {
    unowned
        .with_env(|env| -> Result<_> {
            let config = read(env, &config, length)?;
            let opened = protocol::open(&String::from_utf8_lossy(&config)).map(|handle| handle as i64);
            answer_of(env, opened)
        })
        .resolve::<ThrowRuntimeExAndDefault>()
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn attach<'local>(mut unowned: EnvUnowned<'local>, _: JClass<'local>, handle: jlong, ordered: jboolean) -> JByteArray<'local> {
    unowned.with_env(|env| -> Result<_> { answer_of(env, protocol::attach(id(handle), ordered).map(i64::from)) }).resolve::<ThrowRuntimeExAndDefault>()
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn call<'local>(
    mut unowned: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
    op: jint,
    frame: JByteArray<'local>,
    length: jint,
) -> JByteArray<'local> {
    unowned
        .with_env(|env| -> Result<_> {
            let frame = read(env, &frame, length)?;
            let (status, frame) = protocol::call(id(handle), op as u32, &frame);
            answer(env, status, &frame)
        })
        .resolve::<ThrowRuntimeExAndDefault>()
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn submit<'local>(
    mut unowned: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
    client: jint,
    token: jlong,
    op: jint,
    frame: JByteArray<'local>,
    length: jint,
) -> jboolean {
    unowned
        .with_env(|env| -> Result<_> {
            let frame = read(env, &frame, length)?;
            Ok(protocol::submit(id(handle), client as u32, id(token), op as u32, &frame))
        })
        .resolve::<ThrowRuntimeExAndDefault>()
}

/// Waits at most `timeout_ms` for events and packs up to `max` of them; empty when there are none.
#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn drain<'local>(
    mut unowned: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
    client: jint,
    max: jint,
    timeout_ms: jlong,
) -> JByteArray<'local> {
    unowned
        .with_env(|env| -> Result<_> {
            let events = protocol::drain(id(handle), client as u32, usize::try_from(max).unwrap_or_default(), duration(timeout_ms));
            write(env, &protocol::pack(&events))
        })
        .resolve::<ThrowRuntimeExAndDefault>()
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn cancel<'local>(mut unowned: EnvUnowned<'local>, _: JClass<'local>, handle: jlong, client: jint, token: jlong) {
    unowned
        .with_env(|_| -> Result<_> {
            protocol::cancel(id(handle), client as u32, id(token));
            Ok(())
        })
        .resolve::<ThrowRuntimeExAndDefault>();
}

#[jni_mangle("dev.everstep.Native")]
pub extern "system" fn close<'local>(mut unowned: EnvUnowned<'local>, _: JClass<'local>, handle: jlong, deadline_ms: jlong) {
    unowned
        .with_env(|_| -> Result<_> {
            protocol::close(id(handle), duration(deadline_ms));
            Ok(())
        })
        .resolve::<ThrowRuntimeExAndDefault>();
}
