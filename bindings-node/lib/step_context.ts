/** What a step's function gets as its second argument. */

import { OutsideStep } from "./errors_gen.js";
import type { Attributes } from "./options.js";
import type { RunningStep } from "./scope.js";

export class StepContext {
  readonly #step: RunningStep;

  /** @internal */
  constructor(step: RunningStep) {
    this.#step = step;
  }

  /** The name it was declared with. */
  get name(): string {
    return this.#step.name;
  }

  /** Which attempt this is, from 1. */
  get attempt(): number {
    return this.#step.attempt;
  }

  /** The key to pass to an outside service: the same in every attempt of this step, whatever dies in between. 36 ASCII characters. */
  get idempotencyKey(): string {
    if (this.#step.execution === undefined) throw new OutsideStep("an idempotency key exists only in a step of a run: outside there is nothing it could stay the same for");
    return this.#step.idempotencyKey;
  }

  /** Key of the run; undefined where the step was called outside one. */
  get run(): string | undefined {
    return this.#step.execution?.run;
  }

  /** The id the run was started with, if any. */
  get runId(): string | undefined {
    return this.#step.execution?.runId ?? undefined;
  }

  /** Which attempt of the run this is, from 1: more where the run has a `retry`. */
  get runAttempt(): number {
    return this.#step.execution?.attempt ?? 1;
  }

  /** The attributes the run was started with. */
  get attributes(): Attributes {
    return this.#step.execution?.given() ?? {};
  }

  /** W3C trace context the run was started with, to go on with in what this step calls. */
  get traceParent(): string | undefined {
    return this.#step.execution?.traceParent ?? undefined;
  }

  /** Aborted when the run is asked to cancel, when the step's timeout has passed, and when its result counts no more. Pass it to fetch and the like. */
  get signal(): AbortSignal {
    return this.#step.abortSignal;
  }
}
