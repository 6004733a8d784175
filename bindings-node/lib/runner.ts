/** One execution: decode, run, say how it ended. */

import { CUT_SHORT, LEFT, type Outcome, left, never, raised, returned, timedOut } from "./calls.js";
import { WorkflowContext } from "./context.js";
import { Cancelled, isA } from "./failures.js";
import { log } from "./logging.js";
import { OP_ABANDON, OP_FINISH_RUN } from "./ops_gen.js";
import type { Waiter } from "./pending.js";
import type { Registered } from "./registered.js";
import { type Execution, HERE, JOB, RunningStep, Scope } from "./scope.js";
import { StepContext } from "./step_context.js";

type Run = (input: unknown, context: WorkflowContext | StepContext) => unknown;

export function run(execution: Execution, registered: Registered, data: Uint8Array | null): void {
  const ending = new Ending(execution, registered);
  if (registered.kind === "workflow") runWorkflow(ending, data);
  else {
    runJob(execution, registered, data).then(
      (outcome) => {
        ending.end(outcome);
      },
      (error: unknown) => {
        ending.reject(error);
      },
    );
  }
}

function runWorkflow(ending: Ending, data: Uint8Array | null): void {
  const { execution, registered } = ending;
  const scope = new Scope(execution, "", 0);
  let value: unknown;
  try {
    value = HERE.run(scope, registered.body as Run, registered.decodeInput(data), new WorkflowContext(scope));
  } catch (error) {
    ending.failed(error);
    return;
  }
  Promise.resolve(value).then(
    (settled) => {
      ending.succeeded(settled);
    },
    (error: unknown) => {
      ending.failed(error);
    },
  );
}

/** How an execution ends: what is recorded, and who waits for that. */
class Ending implements Waiter {
  token = 0;
  private refused = false;

  constructor(
    readonly execution: Execution,
    readonly registered: Registered,
  ) {}

  succeeded(value: unknown): void {
    let outcome: Outcome;
    try {
      outcome = returned(this.registered, value, this.execution);
    } catch (error) {
      this.failed(error);
      return;
    }
    this.end(outcome);
  }

  failed(error: unknown): void {
    try {
      this.end(failedWith(this.registered, error, this.execution));
    } catch (failed) {
      this.reject(failed);
    }
  }

  end(outcome: Outcome): void {
    try {
      finish(this, outcome);
    } catch (error) {
      this.reject(error);
    }
  }

  resolve(): void {
    this.execution.engine.ended(this.execution);
  }

  /** Its end was refused. A run without one would stay with this process for as long as it lives, so it fails with the reason. */
  reject(error: unknown): void {
    const { execution } = this;
    if (execution.stopped !== undefined || execution.engine.closed) return;
    log.error(`the end of run ${execution.run} of ${execution.name} was refused${this.refused ? " again" : ": it fails with the reason"}`, { error });
    if (this.refused) {
      execution.engine.ended(execution);
      return;
    }
    this.refused = true;
    this.end(raised(this.registered, error, execution, true));
  }
}

function finish(ending: Ending, outcome: Outcome): void {
  const { execution, registered } = ending;
  if (execution.stopped !== undefined) {
    warnAfterStop(execution, registered);
    return;
  }
  if (outcome === CUT_SHORT) {
    execution.client.call(OP_ABANDON, [execution.id, "cancelled"]);
    return;
  }
  const floating = execution.running();
  if (floating.length > 0) warnUnawaited(execution, floating);
  const cancelled = outcome.fields[0] === true && isA(outcome.value, Cancelled) && execution.cancelled !== undefined;
  const [failed, output, retryable, type, message] = outcome.fields;
  execution.client.askFor(ending, OP_FINISH_RUN, [execution.id, failed, output, type, message, retryable, cancelled]);
  // After it, so that what they still say comes to a run that has ended.
  for (const step of floating) step.raise("branch", new Error("the run has ended without waiting for this step"));
}

/** A step that was started by itself. */
async function runJob(execution: Execution, registered: Registered, data: Uint8Array | null): Promise<Outcome> {
  const running = new RunningStep(execution, registered.name, JOB, 0, execution.attempt, execution.idempotencyKey, registered.where);
  execution.begun(running);
  try {
    const input = registered.decodeInput(data);
    const value = await left(running, () => HERE.run(running, registered.body as Run, input, new StepContext(running)));
    if (value === LEFT) return running.signal === "timeout" ? timedOut(registered, execution) : await never();
    return (running.signal as string | undefined) === "timeout" ? timedOut(registered, execution) : returned(registered, value, execution);
  } catch (error) {
    if (running.signal === "timeout") return timedOut(registered, execution);
    const by = execution.cancelled;
    return failedWith(registered, running.signal === "cancel" && by !== undefined ? new Cancelled(by.by, by.why) : error, execution);
  } finally {
    execution.over(running);
  }
}

function failedWith(registered: Registered, error: unknown, execution: Execution): Outcome {
  const cancelled = isA(error, Cancelled);
  return { ...raised(registered, error, execution, cancelled), value: error };
}

/** A value or an error of a stopped execution counts for nothing; say so once, with the line. */
function warnAfterStop(execution: Execution, registered: Registered): void {
  if (execution.warned) return;
  execution.warned = true;
  log.warn(
    `${registered.kind} ${registered.name} (${registered.where}): what it returned or threw after this execution had ended (${String(execution.stopped)}) is ignored; ` +
      "let errors of calls to the engine pass",
    { run: execution.run },
  );
}

/** The function has returned and a step it called still runs: nobody will see its result, and on replay it may not run at all. */
function warnUnawaited(execution: Execution, [step]: RunningStep[]): void {
  if (step === undefined || execution.warned) return;
  execution.warned = true;
  log.warn(
    `workflow ${execution.name} returned while its step ${JSON.stringify(step.name)} (called at ${step.place}) was still running: await it, or use ctx.race, which ends the losers`,
    { run: execution.run },
  );
}
