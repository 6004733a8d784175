/** Waits, durable values, messages, events: the calls that run nothing of the user's. */

import { type Outcome, recorded, settled } from "./calls.js";
import { decode, encode } from "./codec.js";
import { Text } from "./frame.js";
import { OP_BEGIN_EVENT, OP_BEGIN_SEND, OP_BEGIN_VALUE, OP_BEGIN_WAIT } from "./ops_gen.js";
import { name } from "./options.js";
import type { Scope } from "./scope.js";
import { type Duration, instant, limitMs, milliseconds, point } from "./times.js";
import { Uuid } from "./values.js";

export type { Outcome };

function read(data: Uint8Array | null): unknown {
  return data === null ? null : decode(data);
}

const nothing = (): void => undefined;

export function sleep(scope: Scope, duration: Duration, at: string): Promise<void> {
  return recorded(scope, OP_BEGIN_WAIT, () => ["sleep", at, Math.max(0, milliseconds(duration, "sleep"))], nothing);
}

export function sleepUntil(scope: Scope, when: Date, at: string): Promise<void> {
  return recorded(scope, OP_BEGIN_WAIT, () => ["sleep", at, null, point(when, "sleepUntil")], nothing);
}

/** Null when the time is over. */
export function receive(scope: Scope, topic: string, timeout: Duration | undefined, at: string): Promise<unknown> {
  return recorded(scope, OP_BEGIN_WAIT, () => ["receive", at, limitMs(timeout, "timeout"), null, null, name(topic, "the topic")], read);
}

export function event(scope: Scope, run: string, key: string, timeout: Duration | undefined, at: string): Promise<unknown> {
  return recorded(scope, OP_BEGIN_WAIT, () => ["event", at, limitMs(timeout, "timeout"), null, run, name(key, "the key of an event")], read);
}

export function result<T>(scope: Scope, run: string, timeout: Duration | undefined, at: string, outcome: (value: Uint8Array | null, failed: boolean) => T): Promise<T> {
  return settled(scope, OP_BEGIN_WAIT, () => ["result", at, limitMs(timeout, "timeout"), null, run], outcome);
}

export function send(scope: Scope, run: string, topic: string, message: unknown, idempotencyKey: string | undefined, at: string): Promise<void> {
  return recorded(scope, OP_BEGIN_SEND, () => [at, run, name(topic, "the topic"), new Text(encode(message)), idempotencyKey], nothing);
}

export function setEvent(scope: Scope, key: string, content: unknown, at: string): Promise<void> {
  return recorded(scope, OP_BEGIN_EVENT, () => [at, name(key, "the key of an event"), new Text(encode(content))], nothing);
}

function value<T>(scope: Scope, which: "now" | "uuid" | "random", at: string, as: (value: unknown) => T): Promise<T> {
  return recorded(scope, OP_BEGIN_VALUE, () => [which, at], (data) => as(read(data)));
}

export function now(scope: Scope, at: string): Promise<Date> {
  return value(scope, "now", at, (microseconds) => instant(Number(microseconds)));
}

export function uuid(scope: Scope, at: string): Promise<string> {
  return value(scope, "uuid", at, (made) => (made instanceof Uuid ? made.text : String(made)));
}

export function random(scope: Scope, at: string): Promise<number> {
  return value(scope, "random", at, Number);
}
