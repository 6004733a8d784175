/** What callers say about steps and runs, as plain values; the engine checks them and knows the defaults. */

import type { ErrorClass } from "./failures.js";
import type { Value } from "./frame.js";
import { ConfigInvalid, IdInvalid, PayloadInvalid } from "./errors_gen.js";
import { log } from "./logging.js";
import { type Duration, milliseconds, point } from "./times.js";

/** Attempts of a step or a run. Without a policy there is one attempt; what a policy does not name has the engine's defaults. */
export interface Retry {
  /** Default 5. */
  maxAttempts?: number | undefined;
  /** Before the second attempt; default 1 s. */
  initial?: Duration | undefined;
  /** So many times the wait before, from one attempt to the next; default 2. */
  factor?: number | undefined;
  /** No wait is longer; default 1 minute. */
  maxInterval?: Duration | undefined;
  /** Full: a random part of the wait; default true. */
  jitter?: boolean | undefined;
  /** Errors of these classes are final. */
  nonRetryable?: readonly ErrorClass[] | undefined;
  /** Asked for every other error; false is final. */
  retryIf?: ((error: unknown) => boolean) | undefined;
}

/** At most one run per key in the scope. */
export interface Dedup {
  key: string;
  /** `queued`: until it is claimed; `until_done`, the default: until it has ended; a duration: that long from the start. */
  scope?: "queued" | "until_done" | Duration | undefined;
  /**
   * Of another start with the key: the handle of the run that holds it, the default; the error `run_deduplicated`; or, if that run has not been claimed yet, its
   * place.
   */
  policy?: "attach" | "reject" | "replace" | undefined;
}

export type Attributes = Readonly<Record<string, string | number | boolean>>;

/** What `onFinish` takes: whatever `app.workflow`, `app.step` and `app.reference` return. */
export interface FollowUp {
  readonly name: string;
  start(...args: never[]): unknown;
}

/** Options of one start. What they say is laid over what the function was declared with. */
export interface StartOptions {
  /** 1 to 255 bytes of UTF-8 without control characters; starting it again attaches to the run. */
  id?: string | undefined;
  /** A declared one; none: this process, within its slots. */
  queue?: string | undefined;
  /** Only workers of this label run it. */
  label?: string | undefined;
  /** The lowest number starts first; default 0. */
  priority?: number | undefined;
  /** Not before so long from now. */
  delay?: Duration | undefined;
  /** Not before. */
  startAt?: Date | undefined;
  /** Not started by then: it is cancelled, by `expired`. */
  expires?: Duration | undefined;
  /** Not finished by then: it is cancelled, with its children. */
  deadline?: Duration | undefined;
  /** Stored with the run and shown in its status; it pins it to no build. */
  version?: string | undefined;
  /** What `app.runs` filters by. */
  attributes?: Attributes | undefined;
  /** What a queue's `keyLimit` counts by, and nothing else. */
  fairnessKey?: string | undefined;
  /** Stored with the run for later; nothing acts on it yet. */
  cost?: number | undefined;
  /** Who started it: stored with the run and shown in its status. */
  createdBy?: string | undefined;
  /** One run a key. */
  dedup?: Dedup | undefined;
  /** Of a job, or of the whole workflow, which then goes on at the step that failed. `nonRetryable` and `retryIf` cannot travel with a start: declare them. */
  retry?: Retry | undefined;
  /** Of one attempt of a step that is started as a job. */
  timeout?: Duration | undefined;
  /** A workflow, or a step as a job, that is started with the outcome, a `Finished`, in the commit that ends the run: the declared one, or its name. */
  onFinish?: string | FollowUp | undefined;
  /** W3C trace context, for `ctx.traceParent` and `step.traceParent` inside the run. */
  traceParent?: string | undefined;
  traceState?: string | undefined;
  /** Start again although a run of this id existed and was purged. */
  reusePurged?: boolean | undefined;
  /** Start it although no worker knows this name and it is nearly one that is known. */
  unchecked?: boolean | undefined;
  /** What becomes of a child that is still open when its parent ends, however it ends; default cancel. */
  parentClose?: "cancel" | "abandon" | undefined;
}

/** Attempts and time of a step. */
export interface Policy {
  /** After a failure; without it there is one attempt, and a failure is thrown in the workflow. An attempt that a crash cut short is none that failed. */
  retry?: Retry | undefined;
  /** Of one attempt: it ends with `StepTimeout`, which a retry policy tries again like any failure, and its signal is aborted. Default none. */
  timeout?: Duration | undefined;
  /** The attempt is recorded before it runs; after a crash the workflow gets `StepInterrupted` and decides. */
  atMostOnce?: boolean | undefined;
}

const START_OPTIONS: ReadonlySet<string> = new Set<keyof StartOptions>([
  "id",
  "queue",
  "label",
  "priority",
  "delay",
  "startAt",
  "expires",
  "deadline",
  "version",
  "attributes",
  "fairnessKey",
  "cost",
  "createdBy",
  "dedup",
  "retry",
  "timeout",
  "onFinish",
  "traceParent",
  "traceState",
  "reusePurged",
  "unchecked",
  "parentClose",
]);

const RETRY: ReadonlySet<string> = new Set<keyof Retry>(["maxAttempts", "initial", "factor", "maxInterval", "jitter", "nonRetryable", "retryIf"]);
const PARENT_CLOSE: readonly unknown[] = [undefined, "cancel", "abandon"];
const DEDUP: ReadonlySet<string> = new Set<keyof Dedup>(["key", "scope", "policy"]);

/** A misspelt option would be ignored: an id that is not taken is a run started twice. */
export function checkNames(options: object, known: ReadonlySet<string>, what: string): void {
  const given: unknown = options;
  if (typeof given !== "object" || given === null || Array.isArray(given)) throw new ConfigInvalid(`${what} takes its options as an object, not ${given === null ? "null" : `a ${typeof given}`}`);
  const unknown = Object.keys(options).filter((name) => !known.has(name));
  if (unknown.length > 0) throw new ConfigInvalid(`${what}: no such option: ${unknown.join(", ")}`);
}

/** A name or an id: a number would reach the engine as one, and a row's id is often a number. */
export function text(value: string | undefined, what: string): string | undefined {
  const given: unknown = value;
  if (given !== undefined && typeof given !== "string") throw new ConfigInvalid(`${what} is a text, not ${given === null ? "null" : `a ${typeof given}`}`);
  return value;
}

/** A name or an id that is asked for by itself: what another type of it would be called is `id_invalid`, as every name that cannot be one. */
export function name(value: string, what: string): string {
  const given: unknown = value;
  if (typeof given !== "string") throw new IdInvalid(`${what} is a text, not ${given === null ? "null" : given === undefined ? "undefined" : `a ${typeof given}`}`);
  return given;
}

/** A text where a boolean belongs counts as true everywhere in JavaScript, "false" too. */
export function flag(given: boolean | undefined, what: string): boolean {
  if (given !== undefined && typeof given !== "boolean") throw new ConfigInvalid(`${what} is true or false, not a ${typeof given}`);
  return given ?? false;
}

/** What `onFinish` names. Every function has a name, and a plain one is no run's to start. */
export function followUp(given: string | FollowUp | undefined): string | undefined {
  if (given === undefined || typeof given === "string") return given;
  const { name: named, start } = Object(given) as Record<string, unknown>;
  if (typeof named === "string" && typeof start === "function") return named;
  throw new ConfigInvalid("onFinish takes a name, or what app.workflow, app.step or app.reference returned: declare the function first");
}

/** What is to be gone through, as an array. */
export function listed<T>(given: Iterable<T>, what: string): T[] {
  if (typeof (given as Iterable<T> | null | undefined)?.[Symbol.iterator] !== "function" || typeof given === "string") throw new ConfigInvalid(`${what} is an array, or something else to iterate over`);
  return [...given];
}

/** RETRY of `ops.toml`; null where everything is the default. */
export function policyRecord({ retry, timeout, atMostOnce }: Policy): Value[] | null {
  if (retry === undefined && timeout === undefined && !flag(atMostOnce, "atMostOnce")) return null;
  if (retry !== undefined) checkRetry(retry);
  // What was not said is left open: a start's record is laid over what the function was declared with, and a timeout alone asks for no second attempt.
  return [
    retry?.maxAttempts,
    retry?.initial === undefined ? null : milliseconds(retry.initial, "retry.initial"),
    retry?.factor,
    retry?.maxInterval === undefined ? null : milliseconds(retry.maxInterval, "retry.maxInterval"),
    retry?.jitter,
    timeout === undefined ? null : milliseconds(timeout, "timeout"),
    flag(atMostOnce, "atMostOnce") ? true : null,
  ];
}

function checkRetry(retry: Retry): void {
  checkNames(retry, RETRY, "retry");
  const { maxAttempts, factor, nonRetryable, retryIf } = retry;
  if (maxAttempts !== undefined && !(Number.isSafeInteger(maxAttempts) && maxAttempts >= 1)) throw new ConfigInvalid("retry.maxAttempts is a whole number, at least 1");
  if (factor !== undefined && !(Number.isFinite(factor) && factor >= 1)) throw new ConfigInvalid("retry.factor is a finite number, at least 1");
  flag(retry.jitter, "retry.jitter");
  if (retryIf !== undefined && typeof retryIf !== "function") throw new ConfigInvalid("retry.retryIf is a function");
  const kinds: unknown = nonRetryable;
  if (kinds !== undefined && !(Array.isArray(kinds) && kinds.every((kind) => typeof kind === "function"))) throw new ConfigInvalid("retry.nonRetryable is an array of classes");
}

/** A start is a row that any process of any language may run: functions and classes have no place in it, and to drop them would retry what is final. */
function checkTravels(retry: Retry | undefined): void {
  if (retry?.nonRetryable !== undefined || retry?.retryIf !== undefined) {
    throw new ConfigInvalid("nonRetryable and retryIf are not for a start, they cannot travel with it: say them where the function is declared");
  }
}

/** The same as the JSON of `register`. */
export function policyFields(policy: Value[] | null): Record<string, unknown> | undefined {
  if (policy === null) return undefined;
  const names = ["max_attempts", "initial_ms", "factor", "max_ms", "jitter", "timeout_ms", "at_most_once"];
  return Object.fromEntries(names.map((name, index): [string, unknown] => [name, policy[index] ?? undefined]).filter(([, value]) => value !== undefined));
}

/** What the program itself says must not throw here: the failure it is asked about would stay unrecorded, and its run without an end. */
export function retryable(retry: Retry | undefined, error: unknown): boolean {
  if (retry === undefined) return true;
  try {
    if (retry.nonRetryable?.some((kind) => error instanceof kind) === true) return false;
    const answer: unknown = retry.retryIf === undefined || retry.retryIf(error);
    if (!(answer instanceof Promise)) return Boolean(answer);
    answer.catch(() => undefined);
    log.error("retryIf is asynchronous, which nobody waits for: the error it was asked about counts as final");
  } catch (problem) {
    log.error("retryIf or nonRetryable threw: the error they were asked about counts as final", { error: problem });
  }
  return false;
}

/** RUN_OPTIONS of `ops.toml`. */
export function runRecord(given: StartOptions): Value[] | null {
  checkNames(given, START_OPTIONS, "start");
  if (Object.keys(given).length === 0) return null;
  if (!PARENT_CLOSE.includes(given.parentClose)) throw new ConfigInvalid(`parentClose is "cancel" or "abandon", not ${JSON.stringify(given.parentClose)}`);
  const { dedup, retry } = given;
  if (retry !== undefined) checkRetry(retry);
  checkTravels(retry);
  if (dedup !== undefined) {
    checkNames(dedup, DEDUP, "dedup");
    if (text(dedup.key, "dedup.key") === undefined) throw new ConfigInvalid("dedup takes a key");
  }
  const scope = dedup?.scope;
  const ttl = scope === undefined || typeof scope === "string" ? null : milliseconds(scope, "dedup.scope");
  const span = (name: "delay" | "expires" | "deadline"): number | null => (given[name] === undefined ? null : milliseconds(given[name], name));
  const values: Value[] = [
    text(given.id, "id"),
    text(given.queue, "queue"),
    text(given.label, "label"),
    whole(given.priority, "priority"),
    span("delay"),
    given.startAt === undefined ? null : point(given.startAt, "startAt"),
    span("expires"),
    span("deadline"),
    text(given.version, "version"),
    given.attributes === undefined ? null : attributesJson(given.attributes),
    text(given.fairnessKey, "fairnessKey"),
    whole(given.cost, "cost"),
    text(given.createdBy, "createdBy"),
    dedup?.key,
    dedup === undefined ? null : ttl !== null ? "ttl" : typeof scope === "string" ? scope : "until_done",
    dedup === undefined ? null : (text(dedup.policy ?? undefined, "dedup.policy") ?? "attach"),
    ttl,
    policyRecord({ retry, timeout: given.timeout }),
    followUp(given.onFinish),
    text(given.traceParent, "traceParent"),
    text(given.traceState, "traceState"),
    flag(given.reusePurged, "reusePurged") ? true : null,
    flag(given.unchecked, "unchecked") ? true : null,
  ];
  while (values.length > 0 && (values.at(-1) === null || values.at(-1) === undefined)) values.pop();
  return values.length === 0 ? null : values;
}

export function whole(value: number | undefined, what: string): number | undefined {
  if (value !== undefined && !Number.isSafeInteger(value)) throw new ConfigInvalid(`${what} is a whole number`);
  return value;
}

function attributesJson(attributes: Attributes): string | null {
  const given: unknown = attributes;
  if (!isPlain(given)) throw new ConfigInvalid("attributes is a plain object of texts, numbers and booleans");
  for (const [key, value] of Object.entries(attributes) as [string, unknown][]) attributeJson(key, value);
  return Object.keys(attributes).length === 0 ? null : JSON.stringify(attributes);
}

/** Of any realm. What a Map holds, or a class behind its getters, is no key of its own and would be left out. */
function isPlain(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Attributes are what runs are looked up by: scalars under a text. */
export function attributeJson(key: string, value: unknown): string {
  const what = `attribute ${JSON.stringify(key)}`;
  if (!["string", "boolean"].includes(typeof value) && !Number.isFinite(value)) throw new PayloadInvalid(`${what} is a text, a finite number or a boolean`);
  if (!key.isWellFormed() || (typeof value === "string" && !value.isWellFormed())) throw new PayloadInvalid(`${what} holds a lone surrogate, which has no UTF-8 form`);
  return JSON.stringify(value);
}
