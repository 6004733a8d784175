/** Waits, durable values, messages, events: the calls that run nothing of the user's. */

import { type Outcome, droppable, recorded, settled } from "./calls.js";
import { decode, encode } from "./codec.js";
import { Text } from "./frame.js";
import { OP_BEGIN_EVENT, OP_BEGIN_SEND, OP_BEGIN_VALUE, OP_BEGIN_WAIT } from "./ops_gen.js";
import { text } from "./options.js";
import type { Scope } from "./scope.js";
import { type Duration, instant, limitMs, milliseconds, point } from "./times.js";
import { Uuid } from "./values.js";

export type { Outcome };

function read(data: Uint8Array | null): unknown {
  return data === null ? null : decode(data);
}

export async function sleep(scope: Scope, duration: Duration, at: string): Promise<void> {
  await recorded(scope, OP_BEGIN_WAIT, ["sleep", at, Math.max(0, milliseconds(duration, "sleep"))]);
}

export async function sleepUntil(scope: Scope, when: Date, at: string): Promise<void> {
  await recorded(scope, OP_BEGIN_WAIT, ["sleep", at, null, point(when, "sleepUntil")]);
}

/** Null when the time is over. */
export async function receive(scope: Scope, topic: string, timeout: Duration | undefined, at: string): Promise<unknown> {
  return read(await recorded(scope, OP_BEGIN_WAIT, ["receive", at, limitMs(timeout, "timeout"), null, null, text(topic, "topic")]));
}

export async function event(scope: Scope, run: string, key: string, timeout: Duration | undefined, at: string): Promise<unknown> {
  return read(await recorded(scope, OP_BEGIN_WAIT, ["event", at, limitMs(timeout, "timeout"), null, run, text(key, "an event's key")]));
}

export function result(scope: Scope, run: string, timeout: Duration | undefined, at: string): Promise<{ failed: boolean; value: Uint8Array | null }> {
  return droppable(() => settled(scope, OP_BEGIN_WAIT, ["result", at, limitMs(timeout, "timeout"), null, run]));
}

export async function send(scope: Scope, run: string, topic: string, message: unknown, idempotencyKey: string | undefined, at: string): Promise<void> {
  await recorded(scope, OP_BEGIN_SEND, [at, run, text(topic, "topic"), new Text(encode(message)), idempotencyKey]);
}

export async function setEvent(scope: Scope, key: string, content: unknown, at: string): Promise<void> {
  await recorded(scope, OP_BEGIN_EVENT, [at, text(key, "an event's key"), new Text(encode(content))]);
}

async function value(scope: Scope, which: "now" | "uuid" | "random", at: string): Promise<unknown> {
  return read(await recorded(scope, OP_BEGIN_VALUE, [which, at]));
}

export async function now(scope: Scope, at: string): Promise<Date> {
  return instant(Number(await value(scope, "now", at)));
}

export async function uuid(scope: Scope, at: string): Promise<string> {
  const made = await value(scope, "uuid", at);
  return made instanceof Uuid ? made.text : String(made);
}

export async function random(scope: Scope, at: string): Promise<number> {
  return Number(await value(scope, "random", at));
}
