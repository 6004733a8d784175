/** Calls of a workflow. The place in the run is taken when the step is called: program order is what a replay can repeat. */

import { Closed, ExecutionEnded, OutsideRun, PayloadInvalid, StepTimeout } from "./errors_gen.js";
import { Cancelled, Failure } from "./failures.js";
import { type Frame, Text, type Value } from "./frame.js";
import { place } from "./client.js";
import { EverstepError } from "./error_base.js";
import { log } from "./logging.js";
import { KIND_STEP, OP_BEGIN_STEP, OP_FINISH_STEP, VERDICT_CANCELLED, VERDICT_PENDING, VERDICT_RECORDED, VERDICT_RUN } from "./ops_gen.js";
import type { Registered } from "./registered.js";
import { type Execution, HERE, RunningStep, Scope } from "./scope.js";
import { StepContext } from "./step_context.js";

/** Stops of one branch or one attempt; the execution goes on. */
const LOCAL_STOPS = new Set(["branch_closed", "superseded"]);

/** The promise of a call whose execution has ended. It is dropped, with the stack that waits for it; a new one each time, or all of them would be kept. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

/** Thrown inside the package only: the call is to be dropped. */
const DROPPED = Symbol("dropped");

/** Runs a call; one that was dropped never settles. */
export async function droppable<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error === DROPPED) return never<T>();
    throw error;
  }
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

/** A call of the border inside a run. */
export function call(execution: Execution, op: number, values: readonly Value[]): Frame {
  if (execution.stopped !== undefined) throw DROPPED;
  try {
    return execution.client.call(op, [execution.id, ...values]);
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
  return { token, verdict: call(execution, op, [scope.branch, token, scope.flags, ...rest]) };
}

/** The verdict, once it is more than `pending`. */
export async function answer(execution: Execution, token: number, verdict: Frame): Promise<Frame> {
  while (verdict[0] === VERDICT_PENDING) {
    const waiting = execution.client.expect(token, execution);
    if (verdict[1] === true) execution.client.wantTurn(execution);
    else execution.replaying = false;
    verdict = await waiting;
  }
  return verdict;
}

/** What a call that runs nothing here came to: a wait, a message, a durable value. */
export async function settled(scope: Scope, op: number, rest: readonly Value[]): Promise<{ failed: boolean; value: Uint8Array | null }> {
  const { execution } = scope;
  const begun = begin(scope, op, rest);
  const verdict = await answer(execution, begun.token, begun.verdict);
  if (verdict[0] !== VERDICT_RECORDED) unwind(execution, verdict);
  return { failed: verdict[1] === true, value: bytes(verdict[2]) };
}

/** The same; a failure is raised. */
export function recorded(scope: Scope, op: number, rest: readonly Value[]): Promise<Uint8Array | null> {
  return droppable(async () => {
    const { failed, value } = await settled(scope, op, rest);
    if (failed) throw Failure.read(value).exception(scope.execution.engine.declared);
    return value;
  });
}

export function bytes(value: unknown): Uint8Array | null {
  return value instanceof Uint8Array ? value : null;
}

// -- steps

/** How one attempt ended, as `finish_step` says it: failed, output, retryable, error_type, error_message, stopped. */
export interface Outcome {
  fields: readonly Value[];
  output: Text;
  value: unknown;
}

const NOTHING = new Text("");
/** Cut short by a stop or a cancel: nothing is recorded. */
export const CUT_SHORT: Outcome = { fields: [false, NOTHING, false, null, null, true], output: NOTHING, value: undefined };

export function returned(step: Registered, value: unknown, execution: Execution): Outcome {
  let output: Text;
  try {
    output = step.encodeOutput(value);
  } catch (error) {
    if (error instanceof PayloadInvalid) return raised(step, error, execution, true);
    throw error;
  }
  return { fields: [false, output], output, value };
}

export function raised(step: Registered, error: unknown, execution: Execution, final = false): Outcome {
  const retryable = !final && step.retryable(error);
  const failure = Failure.of(error, execution.engine.declared, retryable);
  const output = new Text(failure.encode());
  return { fields: [true, output, retryable, failure.type.slice(0, 255), failure.message.slice(0, 1000), false], output, value: undefined };
}

export function timedOut(step: Registered, execution: Execution): Outcome {
  return raised(step, new StepTimeout(`step ${JSON.stringify(step.name)} took longer than ${step.timeoutMs ?? 0} ms`), execution);
}

/** What `droppable` does stands inside: each promise on this path is paid for by every step. */
export async function callStep(scope: Scope, step: Registered, at: string, input: unknown, key: string | undefined): Promise<unknown> {
  const { execution } = scope;
  try {
    const begun = begin(scope, OP_BEGIN_STEP, [KIND_STEP, step.name, at, step.encodeInput(input), key, step.policy]);
    let { verdict } = begun;
    let sent: Outcome | undefined;
    for (;;) {
      switch (verdict[0]) {
        case VERDICT_RUN: {
          execution.replaying = false;
          const [, seq, attempt, idempotencyKey] = verdict;
          const running = new RunningStep(execution, step.name, Number(seq), Number(attempt), String(idempotencyKey), at);
          sent = await attemptOf(scope, step, input, running);
          verdict = await execution.client.ask(execution, OP_FINISH_STEP, [execution.id, scope.branch, running.seq, running.attempt, ...sent.fields]);
          break;
        }
        case VERDICT_RECORDED:
          return result(execution, step, verdict, sent);
        case VERDICT_PENDING:
          verdict = await answer(execution, begun.token, verdict);
          break;
        default:
          unwind(execution, verdict);
      }
    }
  } catch (error) {
    if (error === DROPPED) return never();
    throw error;
  }
}

/** What the workflow sees: the recorded bytes, decoded. No bytes in the verdict: what was sent stands. */
export function result(execution: Execution, step: Registered, verdict: Frame, sent: Outcome | undefined): unknown {
  const stored = bytes(verdict[2]);
  if (verdict[1] === true) {
    const document = stored ?? (sent === undefined ? null : Buffer.from(sent.output.json));
    throw Failure.read(document).exception(execution.engine.declared);
  }
  return stored === null && sent !== undefined ? step.outputAgain(sent.value, sent.output) : step.decodeOutput(stored);
}

/** One attempt of the user's function. */
async function attemptOf(scope: Scope, step: Registered, input: unknown, running: RunningStep): Promise<Outcome> {
  const { execution } = scope;
  const at = place(scope.branch, running.seq);
  execution.running.set(at, running);
  const inner = new Scope(execution, scope.branch, scope.flags, running);
  try {
    const value = await left(running, () => HERE.run(inner, step.body as (input: unknown, context: StepContext) => unknown, input, new StepContext(running)));
    if (value === LEFT) return cutShort(step, running, execution);
    if ((running.signal as string | undefined) === "timeout") return timedOut(step, execution);
    return returned(step, value, execution);
  } catch (error) {
    return running.signal === undefined ? raised(step, error, execution) : cutShort(step, running, execution);
  } finally {
    execution.running.delete(at);
  }
}

function cutShort(step: Registered, running: RunningStep, execution: Execution): Outcome {
  if (running.signal === "timeout") return timedOut(step, execution);
  // A stopped execution records nothing, not even that.
  if (running.signal === "stop") throw DROPPED;
  return CUT_SHORT;
}

export const LEFT = Symbol("left");

/** The value of `call`, or LEFT as soon as a signal says that it is not waited for. */
export function left(running: RunningStep, call: () => unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    running.onLeave = () => {
      resolve(LEFT);
    };
    const value = call();
    if (value instanceof Promise) value.then(resolve, reject);
    else resolve(value);
  });
}

/** Outside a run a step is the plain function; under `strict` that is an error. */
export async function plainCall(step: Registered, input: unknown, strict: boolean): Promise<unknown> {
  if (strict) throw new OutsideRun(`step ${JSON.stringify(step.name)} was called outside a workflow, and this engine is strict`);
  const running = new RunningStep(undefined, step.name, 0, 1, "", step.where);
  return HERE.run(running, step.body as (input: unknown, context: StepContext) => unknown, input, new StepContext(running));
}
