/**
 * Calls of steps, the path everything else is built around. A promise costs as much as the rest of what one does in JavaScript, with what the loop's hooks add to
 * each: so there is the one its caller awaits, and that of the user's function, and the call is a small machine between two verdicts.
 */

import { AsyncResource } from "node:async_hooks";
import { CUT_SHORT, DROPPED, NOTHING, type Outcome, type Sent, call, mayBeUnheard, pending, raised, result, timedOut, unwind } from "./calls.js";
import { isItsOwnDecoding } from "./codec.js";
import { OutsideRun } from "./errors_gen.js";
import { type Frame, type Text, frame } from "./frame.js";
import { KIND_STEP, OP_BEGIN_STEP, OP_FINISH_STEP, VERDICT_PENDING, VERDICT_RECORDED, VERDICT_RUN } from "./ops_gen.js";
import type { Waiter } from "./pending.js";
import type { Registered } from "./registered.js";
import { type Execution, HERE, type Leaving, RunningStep, type Scope } from "./scope.js";
import { StepContext } from "./step_context.js";

type Body = (input: unknown, context: StepContext) => unknown;

/** The place in the run is taken here, before this returns. */
export function callStep(scope: Scope, step: Registered, at: string, input: unknown, key: string | undefined): Promise<unknown> {
  const promise = new Promise(take);
  new StepCall(scope, step, at, input, promise, fulfil, refuse).begin(key);
  return promise;
}

let fulfil: (value: unknown) => void;
let refuse: (error: unknown) => void;

/** One function for all promises, where a closure for each would be made to hand these two out. */
function take(resolve: (value: unknown) => void, reject: (error: unknown) => void): void {
  fulfil = resolve;
  refuse = reject;
}

class StepCall implements Waiter, Leaving {
  readonly execution: Execution;
  token = 0;
  /** The attempt under way. */
  private running: RunningStep | undefined;
  private sent: Sent | undefined;
  /** The input as it is recorded, where a schema is asked for it again. */
  private wire: Text | null = null;
  /** Where the function runs that an event of the engine begins: in the surroundings of its caller, not in those of the event. */
  private surroundings: AsyncResource | undefined;

  constructor(
    private readonly scope: Scope,
    private readonly step: Registered,
    private readonly at: string,
    private readonly input: unknown,
    private readonly promise: Promise<unknown>,
    private readonly fulfil: (value: unknown) => void,
    private readonly refuse: (error: unknown) => void,
  ) {
    this.execution = scope.execution;
  }

  begin(key: string | undefined): void {
    const { execution, scope, step } = this;
    try {
      const arguments_ = step.encodeInput(this.input);
      if (step.asksInput) this.wire = arguments_;
      const token = execution.client.newToken();
      const head = frame().value(execution.id).value(scope.branch).value(token).value(scope.flags);
      const verdict = call(execution, OP_BEGIN_STEP, head.value(KIND_STEP).value(step.name).value(this.at).value(arguments_).value(key).value(step.policy));
      this.token = token;
      // Only these can be told to run by an event.
      if (step.policy !== null || verdict[0] === VERDICT_PENDING) this.surroundings = new AsyncResource("EverstepStep", { requireManualDestroy: true });
      this.next(verdict);
    } catch (error) {
      this.reject(error);
    }
  }

  resolve(verdict: Frame): void {
    try {
      if (this.surroundings === undefined) this.next(verdict);
      else this.surroundings.runInAsyncScope(this.next, this, verdict);
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
    switch (verdict[0]) {
      case VERDICT_RUN:
        this.attempt(verdict);
        return;
      case VERDICT_RECORDED:
        this.fulfil(result(this.execution, this.step, verdict, this.sent));
        return;
      case VERDICT_PENDING:
        pending(this.token, verdict, this);
        return;
      default:
        unwind(this.execution, verdict);
    }
  }

  /** One attempt of the user's function. */
  private attempt([, seq, attempt, idempotencyKey]: Frame): void {
    const { execution, step } = this;
    execution.replaying = false;
    const running = new RunningStep(execution, step.name, this.scope.branch, Number(seq), Number(attempt), String(idempotencyKey), this.at, this.scope.isShielded);
    running.onLeave = this;
    this.running = running;
    execution.begun(running);
    let input: unknown;
    try {
      input = step.inputOf(this.input, this.wire);
    } catch (error) {
      // The same value meets the same schema in every attempt.
      this.finish(running, raised(step, error, execution, true));
      return;
    }
    let value: unknown;
    try {
      value = HERE.run(running, step.body as Body, input, new StepContext(running));
      // Any object may be a promise of another library.
      if ((typeof value === "object" && value !== null) || typeof value === "function") {
        const promise = value instanceof Promise ? value : Promise.resolve(value);
        promise.then(
          (settled) => {
            this.returned(running, settled);
          },
          (error: unknown) => {
            this.threw(running, error);
          },
        );
        return;
      }
    } catch (error) {
      this.threw(running, error);
      return;
    }
    this.returned(running, value);
  }

  private returned(running: RunningStep, value: unknown): void {
    if (this.running !== running) return;
    const { execution, step } = this;
    try {
      let output: Text;
      try {
        output = step.encodeOutput(value);
      } catch (error) {
        // Also what a getter, a proxy or a schema threw: an attempt without a record would run again on every replay.
        this.finish(running, raised(step, error, execution, true));
        return;
      }
      this.over(running);
      this.sent = { output: value === undefined || isItsOwnDecoding(value) ? NOTHING : output, value };
      const { branch, seq, attempt } = running;
      execution.client.askFor(this, OP_FINISH_STEP, frame().value(execution.id).value(branch).value(seq).value(attempt).value(false).value(output));
    } catch (error) {
      this.reject(error);
    }
  }

  private threw(running: RunningStep, error: unknown): void {
    if (this.running !== running) return;
    try {
      this.finish(running, running.signal === undefined ? raised(this.step, error, this.execution) : CUT_SHORT);
    } catch (failed) {
      this.reject(failed);
    }
  }

  /** The function is not waited for any longer: what it still returns or throws counts for nothing. */
  left(): void {
    const { running } = this;
    if (running === undefined) return;
    try {
      // A stopped execution records nothing, not even that.
      if (running.signal === "stop") this.over(running);
      else this.finish(running, running.signal === "timeout" ? timedOut(this.step, this.execution) : CUT_SHORT);
    } catch (error) {
      this.reject(error);
    }
  }

  private finish(running: RunningStep, outcome: Outcome): void {
    const { execution } = this;
    this.over(running);
    this.sent = outcome;
    execution.client.askFor(this, OP_FINISH_STEP, [execution.id, running.branch, running.seq, running.attempt, ...outcome.fields]);
  }

  private over(running: RunningStep): void {
    this.running = undefined;
    this.execution.over(running);
  }
}

/** Outside a run a step is the plain function, between the schemas it has; under `strict` that is an error. */
export async function plainCall(step: Registered, input: unknown, strict: boolean): Promise<unknown> {
  if (strict) throw new OutsideRun(`step ${JSON.stringify(step.name)} was called outside a workflow, and this engine is strict`);
  const running = new RunningStep(undefined, step.name, "", 0, 1, "", step.where);
  const given = step.asksInput ? step.inputOf(input, step.encodeInput(input)) : input;
  return step.plainOutput(await HERE.run(running, step.body as Body, given, new StepContext(running)));
}
