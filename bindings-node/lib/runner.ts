/** One execution: decode, run, say how it ended. */

import { CUT_SHORT, type Outcome, never, raised, returned, timedOut } from "./calls.js";
import { WorkflowContext } from "./context.js";
import { Cancelled } from "./failures.js";
import { log } from "./logging.js";
import { OP_ABANDON, OP_FINISH_RUN } from "./ops_gen.js";
import type { Registered } from "./registered.js";
import { type Execution, HERE, JOB, RunningStep, Scope } from "./scope.js";
import { StepContext } from "./step_context.js";
import { left, LEFT } from "./calls.js";

type Run = (input: unknown, context: WorkflowContext | StepContext) => unknown;

export async function run(execution: Execution, registered: Registered, data: Uint8Array | null): Promise<void> {
  const outcome = registered.kind === "step" ? await runJob(execution, registered, data) : await runWorkflow(execution, registered, data);
  if (execution.stopped !== undefined) {
    warnAfterStop(execution, registered);
    return;
  }
  if (outcome === CUT_SHORT) {
    execution.client.call(OP_ABANDON, [execution.id, "cancelled"]);
    return;
  }
  warnUnawaited(execution);
  const cancelled = outcome.fields[0] === true && outcome.value instanceof Cancelled && execution.cancelled !== undefined;
  const [failed, output, retryable, type, message] = outcome.fields;
  const answered = execution.client.ask(execution, OP_FINISH_RUN, [execution.id, failed, output, type, message, retryable, cancelled]);
  // After it, so that what they still say comes to a run that has ended.
  for (const step of execution.running) step.raise("branch", new Error("the run has ended without waiting for this step"));
  await answered;
  execution.engine.ended(execution);
}

async function runWorkflow(execution: Execution, registered: Registered, data: Uint8Array | null): Promise<Outcome> {
  const scope = new Scope(execution, "", 0);
  try {
    const input = registered.decodeInput(data);
    return returned(registered, await HERE.run(scope, registered.body as Run, input, new WorkflowContext(scope)), execution);
  } catch (error) {
    return failedWith(registered, error, execution);
  }
}

/** A step that was started by itself. */
async function runJob(execution: Execution, registered: Registered, data: Uint8Array | null): Promise<Outcome> {
  const running = new RunningStep(execution, registered.name, JOB, 0, execution.attempt, execution.idempotencyKey, registered.where);
  execution.running.add(running);
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
    execution.running.delete(running);
  }
}

function failedWith(registered: Registered, error: unknown, execution: Execution): Outcome {
  const cancelled = error instanceof Cancelled;
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
function warnUnawaited(execution: Execution): void {
  const [step] = execution.running;
  if (step === undefined || execution.warned) return;
  execution.warned = true;
  log.warn(
    `workflow ${execution.name} returned while its step ${JSON.stringify(step.name)} (called at ${step.place}) was still running: await it, or use ctx.race, which ends the losers`,
    { run: execution.run },
  );
}
