/** Calls of a workflow. The place in the run is taken when the step is called: program order is what a replay can repeat. */

import { Closed, ExecutionEnded, StepTimeout } from "./errors_gen.js";
import { EverstepError } from "./error_base.js";
import { Cancelled, Failure, isA, shortened } from "./failures.js";
import { type Frame, Text, type Value, type Writer } from "./frame.js";
import { log } from "./logging.js";
import { VERDICT_CANCELLED, VERDICT_PENDING, VERDICT_RECORDED } from "./ops_gen.js";
import type { Waiter } from "./pending.js";
import type { Registered } from "./registered.js";
import type { Execution, RunningStep, Scope } from "./scope.js";

/** Stops of one branch or one attempt; the execution goes on. `ended`: what it had begun and not awaited when its run ended; what it calls next is `finished`. */
const LOCAL_STOPS = new Set(["branch_closed", "superseded", "ended"]);

/** The promise of a call whose execution has ended. It is dropped, with the stack that waits for it; a new one each time, or all of them would be kept. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

/** Thrown inside the package only: the call is to be dropped. */
export const DROPPED = Symbol("dropped");

/** Runs a call; one that was dropped never settles. */
export function droppable<T>(call: () => Promise<T>): Promise<T> {
  const promise = new Promise<T>((fulfil, refuse) => {
    call().then(fulfil, (error: unknown) => {
      if (error === DROPPED) return;
      mayBeUnheard(promise, error);
      refuse(error); // eslint-disable-line @typescript-eslint/prefer-promise-reject-errors -- As it was thrown.
    });
  });
  return promise;
}

/**
 * A cancel refuses every call that is open, and one of them may be awaited only later, or raced: `const limit = ctx.sleep(..); await step()`. Such a promise must not
 * count as a rejection nobody handles, for that ends the process and every run in it. Whoever awaits it hears of the cancel all the same.
 */
export function mayBeUnheard(promise: Promise<unknown>, error: unknown): void {
  if (isA(error, Cancelled)) promise.catch(() => undefined);
}

/** Verdicts after which the calling code does not go on. */
export function unwind(execution: Execution, verdict: Frame): never {
  if (verdict[0] === VERDICT_CANCELLED) {
    const [by, why] = [verdict[1], verdict[2]].map((text) => (typeof text === "string" ? text : "")) as [string, string];
    execution.cancelled = { by, why };
    throw new Cancelled(by, why);
  }
  const why = typeof verdict[1] === "string" ? verdict[1] : "stopped";
  if (why === "finished") warnFloating(execution);
  else if (!LOCAL_STOPS.has(why)) execution.stop(why);
  throw DROPPED;
}

function warnFloating(execution: Execution): void {
  if (execution.warned) return;
  execution.warned = true;
  log.warn(`workflow ${execution.name} called a step after its function had returned: a promise that is not awaited outlives its run, and is dropped`, { run: execution.run });
}

/** A call of the border inside a run; `values` begin with the execution's id. */
export function call(execution: Execution, op: number, values: readonly Value[] | Writer): Frame {
  if (execution.stopped !== undefined) throw DROPPED;
  try {
    return execution.client.call(op, values);
  } catch (error) {
    if (error instanceof EverstepError && (error.code === "stopped" || error.code === Closed.code)) {
      execution.stop(error.code);
      throw DROPPED;
    }
    throw error;
  }
}

/** The same for a call that has no promise to drop. */
export function callNow(execution: Execution, op: number, values: readonly Value[]): Frame {
  try {
    return call(execution, op, values);
  } catch (error) {
    if (error === DROPPED) throw new ExecutionEnded(`this execution has ended (${String(execution.stopped)})`);
    throw error;
  }
}

/** Asks for a place in the run: the token later verdicts come to, and the first verdict. */
export function begin(scope: Scope, op: number, rest: readonly Value[]): { token: number; verdict: Frame } {
  const { execution } = scope;
  const token = execution.client.newToken();
  return { token, verdict: call(execution, op, [execution.id, scope.branch, token, scope.flags, ...rest]) };
}

/** The engine will answer later: whoever waits, and the turn it may need. */
export function pending(token: number, verdict: Frame, waiter: Waiter & { readonly execution: Execution }): void {
  const { execution } = waiter;
  execution.client.expect(token, waiter);
  if (verdict[1] === true) execution.client.wantTurn(execution);
  else execution.replaying = false;
}

/** What a call that runs nothing here came to. */
type Reading<T> = (value: Uint8Array | null, failed: boolean) => T;

/**
 * A call that runs nothing here: a wait, a message, a durable value. Thousands of runs may wait at once, so there is the promise its caller awaits and no other:
 * each async function in between would keep a generator, three promises and their closures for every one of them.
 */
class Call<T> implements Waiter {
  readonly execution: Execution;
  readonly promise: Promise<T>;
  token = 0;
  private fulfil!: (value: T) => void;
  private refuse!: (error: unknown) => void;

  constructor(
    private readonly scope: Scope,
    private readonly read: Reading<T>,
  ) {
    this.execution = scope.execution;
    this.promise = new Promise<T>((fulfil, refuse) => {
      this.fulfil = fulfil;
      this.refuse = refuse;
    });
  }

  begin(op: number, rest: () => readonly Value[]): void {
    try {
      const { token, verdict } = begin(this.scope, op, rest());
      this.token = token;
      this.next(verdict);
    } catch (error) {
      this.reject(error);
    }
  }

  resolve(verdict: Frame): void {
    try {
      this.next(verdict);
    } catch (error) {
      this.reject(error);
    }
  }

  /** A call that was dropped never settles. */
  reject(error: unknown): void {
    if (error === DROPPED) return;
    mayBeUnheard(this.promise, error);
    this.refuse(error);
  }

  private next(verdict: Frame): void {
    if (verdict[0] === VERDICT_PENDING) pending(this.token, verdict, this);
    else if (verdict[0] === VERDICT_RECORDED) this.fulfil(this.read(bytes(verdict[2]), verdict[1] === true));
    else unwind(this.execution, verdict);
  }
}

/** Asks for a place, waits, reads. `rest` is made inside, so that what it refuses comes as a rejection. */
export function settled<T>(scope: Scope, op: number, rest: () => readonly Value[], read: Reading<T>): Promise<T> {
  const made = new Call(scope, read);
  made.begin(op, rest);
  return made.promise;
}

/** The same; a failure is raised. */
export function recorded<T>(scope: Scope, op: number, rest: () => readonly Value[], read: (value: Uint8Array | null) => T): Promise<T> {
  return settled(scope, op, rest, (value, failed) => {
    if (failed) throw Failure.read(value).exception(scope.execution.engine.declared);
    return read(value);
  });
}

export function bytes(value: unknown): Uint8Array | null {
  return value instanceof Uint8Array ? value : null;
}

// -- how steps end

/** What is remembered of an attempt until its record is answered. */
export interface Sent {
  output: Text;
  value: unknown;
}

/** How one attempt ended, as `finish_step` says it: failed, output, retryable, error_type, error_message, stopped. */
export interface Outcome extends Sent {
  fields: readonly Value[];
}

export const NOTHING = new Text("");
/** Cut short by a stop or a cancel: nothing is recorded. */
export const CUT_SHORT: Outcome = { fields: [false, NOTHING, false, null, null, true], output: NOTHING, value: undefined };

export function returned(step: Registered, value: unknown, execution: Execution): Outcome {
  let output: Text;
  try {
    output = step.encodeOutput(value);
  } catch (error) {
    return raised(step, error, execution, true);
  }
  return { fields: [false, output], output, value };
}

export function raised(step: Registered, error: unknown, execution: Execution, final = false): Outcome {
  const retryable = !final && step.retryable(error);
  const failure = Failure.of(error, execution.engine.declared, retryable);
  const output = new Text(failure.encode());
  return { fields: [true, output, retryable, shortened(failure.type, 255), shortened(failure.message, 1000), false], output, value: undefined };
}

export function timedOut(step: Registered, execution: Execution): Outcome {
  return raised(step, new StepTimeout(`step ${JSON.stringify(step.name)} took longer than ${step.timeoutMs ?? 0} ms`), execution);
}

/** What the workflow sees: the recorded bytes, decoded. No bytes in the verdict: what was sent stands. */
export function result(execution: Execution, step: Registered, verdict: Frame, sent: Sent | undefined): unknown {
  const stored = bytes(verdict[2]);
  if (verdict[1] === true) {
    const document = stored ?? (sent === undefined ? null : Buffer.from(sent.output.json));
    throw Failure.read(document).exception(execution.engine.declared);
  }
  return stored === null && sent !== undefined ? step.outputAgain(sent.value, sent.output) : step.decodeOutput(stored);
}

export const LEFT = Symbol("left");

/** The value of `call`, or LEFT as soon as a signal says that it is not waited for. */
export function left(running: RunningStep, call: () => unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    running.onLeave = {
      left: () => {
        resolve(LEFT);
      },
    };
    const value = call();
    if (value instanceof Promise) value.then(resolve, reject);
    else resolve(value);
  });
}
