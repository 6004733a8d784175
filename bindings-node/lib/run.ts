/** The handle of one run. Inside a workflow `result()`, `send()` and `getEvent()` are recorded. */

import { decode, encode } from "./codec.js";
import type { Engine } from "./engine.js";
import { RunError } from "./error_base.js";
import { IdInvalid, ResultTimeout, RunBlocked, RunCancelled, RunNotFound } from "./errors_gen.js";
import { Failure } from "./failures.js";
import { type Frame, type Read, Text, type Value } from "./frame.js";
import { bytes, droppable } from "./calls.js";
import { OP_AWAIT_RESULT, OP_CANCEL_RUN, OP_GET_EVENT, OP_GET_RUN, OP_LIST_STEPS, OP_RESUME_RUN, OP_RETRY_RUN, OP_REWIND_RUN, OP_SEND } from "./ops_gen.js";
import { checkNames, flag, name as checkName, text, whole } from "./options.js";
import type { Registered } from "./registered.js";
import { type CancelOutcome, type ResumeOutcome, type RunInfo, type StepInfo, runInfo, stepInfo } from "./runs.js";
import { type Scope, location, scopeOf } from "./scope.js";
import { type Duration, limitMs } from "./times.js";
import * as waits from "./waits.js";

const PAGE = 500;

/** Which run: its handle or `{ key }`, or the id it was started with. */
export type RunLike = string | { readonly key: string };

/** The key a run is given by, or its id, of which the engine makes one. */
export function keyOrId(run: RunLike): { key: string } | { id: string } {
  const given: unknown = run;
  if (typeof given === "string") return { id: given };
  const key: unknown = (given as { key?: unknown } | null | undefined)?.key;
  if (typeof key !== "string") throw new IdInvalid("a run is given as its handle, as { key }, or as the id it was started with, a text");
  return { key };
}

const TIMEOUT: ReadonlySet<string> = new Set(["timeout"]);
const BY: ReadonlySet<string> = new Set(["by"]);
const CANCEL: ReadonlySet<string> = new Set(["by", "why"]);
const REWIND: ReadonlySet<string> = new Set(["branch", "by", "newEffects"]);
const SEND: ReadonlySet<string> = new Set(["idempotencyKey"]);

/** Options of `result`, `receive` and `getEvent`. */
export function timeoutOf(options: { timeout?: Duration | undefined }, verb: string): Duration | undefined {
  checkNames(options, TIMEOUT, verb);
  return options.timeout;
}

/** Those of `send`. */
export function messageKeyOf(options: { idempotencyKey?: string | undefined }): string | undefined {
  checkNames(options, SEND, "send");
  return text(options.idempotencyKey, "idempotencyKey");
}

export class Run<Output> {
  readonly #engine: Engine;
  readonly #registered: Registered | undefined;
  /** The run's key, a uuid. */
  readonly key: string;
  /** The id it was started with, if any. */
  readonly id: string | undefined;
  /** True when the run existed before this start. */
  readonly attached: boolean;

  /** @internal */
  constructor(engine: Engine, key: string, registered: Registered | undefined, id?: string, attached = false) {
    this.#engine = engine;
    this.#registered = registered;
    this.key = key;
    this.id = id;
    this.attached = attached;
  }

  /** Waits for the end. Throws `RunFailed` (its cause is the run's error), `RunCancelled`, `RunBlocked`, or `ResultTimeout` with what the run waits for. */
  result(options: { timeout?: Duration | undefined } = {}): Promise<Output> {
    let timeout: Duration | undefined;
    let scope: Scope | undefined;
    try {
      timeout = timeoutOf(options, "result");
      scope = this.#scope();
    } catch (error) {
      return Promise.reject(this.#about(error));
    }
    if (scope !== undefined) return this.#recorded(scope, timeout, location(this.result));
    this.#engine.warnUnlaunched();
    // Thousands may wait at once: no promise stands between the engine's answer and the caller's.
    return new Promise((resolve, reject) => {
      const answered = (frame: Frame): void => {
        try {
          resolve(this.#outcome(frame));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      };
      const refused = (error: unknown): void => {
        reject(this.#about(error));
      };
      this.#engine.open().askFor({ token: 0, execution: undefined, resolve: answered, reject: refused }, OP_AWAIT_RESULT, [this.key, limitMs(timeout, "timeout")]);
    });
  }

  #recorded(scope: Scope, timeout: Duration | undefined, at: string): Promise<Output> {
    return waits.result(scope, this.key, timeout, at, (value, failed) => {
      if (!failed) return this.#output(value);
      const failure = Failure.read(value);
      const own = failure.code === ResultTimeout.code || failure.code === RunNotFound.code || failure.code === RunBlocked.code;
      throw own ? this.#about(failure.exception(this.#engine.declared)) : failure.ofRun(this.key, this.#engine.declared);
    });
  }

  #outcome([state, stored]: Frame): Output {
    const value = bytes(stored);
    if (state === "succeeded") return this.#output(value);
    const failure = Failure.read(value);
    if (state === "cancelled") throw new RunCancelled(failure.message || "the run was cancelled", { run: this.key });
    throw failure.ofRun(this.key, this.#engine.declared);
  }

  #scope(): Scope | undefined {
    return scopeOf(this.#engine, `run ${this.id ?? this.key}`);
  }

  #output(value: Uint8Array | null): Output {
    const output = this.#registered !== undefined ? this.#registered.decodeOutput(value) : value === null ? null : decode(value);
    return output as Output;
  }

  async #ask(op: number, ...values: Value[]): Promise<Frame> {
    try {
      return await this.#engine.request(op, [this.key, ...values]);
    } catch (error) {
      throw this.#about(error);
    }
  }

  /** Whoever waits for many runs in one place sees which of them an error is about, by the name the program knows. */
  #about(error: unknown): Error {
    if (error instanceof RunNotFound) return this.#missing();
    if (error instanceof RunError && error.run === undefined) Object.defineProperty(error, "run", { value: this.key, enumerable: true });
    return error instanceof Error ? error : new Error(String(error));
  }

  #missing(): RunNotFound {
    return new RunNotFound(`there is no run ${this.id ?? this.key}`, { run: this.key });
  }

  /** The run as the database has it now, with what it waits for. */
  async status(): Promise<RunInfo> {
    const [record] = await this.#ask(OP_GET_RUN);
    if (record === null || record === undefined) throw this.#missing();
    return runInfo(record);
  }

  /** Every recorded call, in order of position. */
  async steps(): Promise<StepInfo[]> {
    const out: StepInfo[] = [];
    let after: Read | undefined = null;
    do {
      const answer: Frame = await this.#ask(OP_LIST_STEPS, after, PAGE);
      out.push(...(answer[0] as Read[]).map(stepInfo));
      after = answer[1];
    } while (after !== null && after !== undefined);
    return out;
  }

  /**
   * Asks the run to cancel; `by` and `why` are shown in its status. `cancelled`: it had not begun and is; `requested`: its workflow sees it at its next call, and may
   * clean up; `already_finished`.
   */
  async cancel(options: { by?: string | undefined; why?: string | undefined } = {}): Promise<CancelOutcome> {
    checkNames(options, CANCEL, "cancel");
    return (await this.#ask(OP_CANCEL_RUN, text(options.by, "by"), text(options.why, "why")))[0] as CancelOutcome;
  }

  /** A blocked or cancelled run goes on. */
  async resume(options: { by?: string | undefined } = {}): Promise<ResumeOutcome> {
    checkNames(options, BY, "resume");
    return (await this.#ask(OP_RESUME_RUN, text(options.by, "by")))[0] as ResumeOutcome;
  }

  /** A failed run goes on at the step that failed. */
  async retry(options: { by?: string | undefined } = {}): Promise<ResumeOutcome> {
    checkNames(options, BY, "retry");
    return (await this.#ask(OP_RETRY_RUN, text(options.by, "by")))[0] as ResumeOutcome;
  }

  /**
   * Forgets the step at this position and everything completed since. Idempotency keys stay as they were, so the other side takes a repeated call for the
   * one it knows; with `newEffects` they are new, as are messages sent and children started again.
   */
  async rewind(seq: number, options: { branch?: string | undefined; by?: string | undefined; newEffects?: boolean | undefined } = {}): Promise<ResumeOutcome> {
    checkNames(options, REWIND, "rewind");
    return (await this.#ask(OP_REWIND_RUN, text(options.branch, "branch") ?? "", whole(seq, "seq"), text(options.by, "by"), flag(options.newEffects, "newEffects")))[0] as ResumeOutcome;
  }

  /** A message, kept until it is received; with an `idempotencyKey` it arrives once, however often it is sent. Inside a workflow the send is recorded. */
  send(topic: string, message: unknown, options: { idempotencyKey?: string | undefined } = {}): Promise<void> {
    return droppable(async () => {
      const key = messageKeyOf(options);
      const scope = this.#scope();
      if (scope !== undefined) await waits.send(scope, this.key, topic, message, key, location(this.send));
      else await this.#ask(OP_SEND, checkName(topic, "the topic"), new Text(encode(message)), key);
    });
  }

  /** Waits for an event the run publishes; null when the time is over or the run has ended without it, as of an event whose value is null. */
  getEvent<T = unknown>(key: string, options: { timeout?: Duration | undefined } = {}): Promise<T | null> {
    return droppable(async () => {
      const timeout = timeoutOf(options, "getEvent");
      const scope = this.#scope();
      if (scope !== undefined) return (await waits.event(scope, this.key, key, timeout, location(this.getEvent))) as T | null;
      const [value] = await this.#ask(OP_GET_EVENT, checkName(key, "the key of an event"), limitMs(timeout, "timeout"));
      return (value instanceof Uint8Array ? decode(value) : null) as T | null;
    });
  }
}
