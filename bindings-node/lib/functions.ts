/** What `app.step`, `app.transaction` and `app.workflow` return. */

import { callStep, plainCall } from "./step_call.js";
import type { Engine } from "./engine.js";
import { type Retry, type StartOptions, checkNames, name as checkName, text } from "./options.js";
import type { Registered } from "./registered.js";
import type { Run } from "./run.js";
import { CallPlace, HERE, Scope, location, ofAnotherEngine } from "./scope.js";
import { type Target, start, startMany } from "./starting.js";
import type { Duration } from "./times.js";
import { callTransaction, plainTransaction } from "./transaction.js";

/** The one argument of a function; it may be left out where it may be undefined. */
export type Arguments<Input> = unknown extends Input ? [input?: Input] : undefined extends Input ? [input?: Input] : [input: Input];
export type StartArguments<Input> = unknown extends Input
  ? [input?: Input, options?: StartOptions]
  : undefined extends Input
    ? [input?: Input, options?: StartOptions]
    : [input: Input, options?: StartOptions];

export interface Startable<Input, Output> {
  readonly name: string;
  /**
   * Starts a run, or attaches to the run of this id. Inside a workflow the start is recorded and the run is a child.
   *
   * Throws `IdConflict` (the id is another workflow's), `UnknownWorkflow` (nobody knows the name, and it is nearly one that is known), `UnknownQueue`,
   * `RunDeduplicated` (another run holds the dedup key, under `reject`), `RunPurged` (retention has removed the run of this id), `PayloadTooLarge`.
   */
  start(...args: StartArguments<Input>): Promise<Run<Output>>;
  /** One run an input, in one round trip; `id` names each, so that a repeat attaches. */
  startMany(inputs: Iterable<Input>, options?: Omit<StartOptions, "id"> & { id?: ((input: Input) => string) | undefined }): Promise<Run<Output>[]>;
}

/** Options of one call of a declared step. */
export interface CallOptions {
  /** Tells same-named calls of one branch apart, where they have no input to be told apart by. */
  key?: string | undefined;
  /** For this call: what it names goes before what the declaration says, the rest of which stays. */
  retry?: Retry | undefined;
  /** Of one attempt of this call. */
  timeout?: Duration | undefined;
}

const CALL_OPTIONS: ReadonlySet<string> = new Set<keyof CallOptions>(["key", "retry", "timeout"]);

/** A declared transaction: rows and checkpoint commit together. */
export interface TransactionStep<Input, Output> {
  (...args: Arguments<Input>): Promise<Output>;
  readonly name: string;
  /** The same function with options of one call: `await charge.options({ key: order.id, timeout: { seconds: 5 } })(order)`. */
  options(options: CallOptions): (...args: Arguments<Input>) => Promise<Output>;
}

/** A declared step. Called in a workflow it is recorded; called elsewhere it is the plain function, between its schemas. `start` runs it as a job: one row, one commit. */
export interface Step<Input, Output> extends TransactionStep<Input, Output>, Startable<Input, Output> {}

/** A declared workflow. */
export interface Workflow<Input, Output> extends Startable<Input, Output> {
  /** The plain function would have no context: call `start`. */
  readonly name: string;
}

/** A workflow known by name: of another process, another program, another language. */
export type Reference<Input, Output> = Startable<Input, Output>;

function startable(target: Target): { start: Startable<unknown, unknown>["start"]; startMany: Startable<unknown, unknown>["startMany"] } {
  const methods = {
    start: (input?: unknown, options: StartOptions = {}): Promise<Run<unknown>> => start(target, input, options, methods.start),
    startMany: (inputs: Iterable<unknown>, options: Omit<StartOptions, "id"> & { id?: ((input: never) => string) | undefined } = {}): Promise<Run<unknown>[]> => {
      const { id, ...rest } = options;
      return startMany(target, inputs, rest, id);
    },
  };
  return methods;
}

/** Whose they are: `ctx.start` goes by the name, and would start one of that name here. */
const engines = new WeakMap<object, Engine>();

function made<T extends object>(engine: Engine, value: T): T {
  engines.set(value, engine);
  return Object.freeze(value);
}

export function engineOf(startable: object): Engine | undefined {
  return engines.get(startable);
}

export function makeReference(engine: Engine, name: string): Reference<unknown, unknown> {
  checkName(name, "the name of a workflow");
  return made(engine, { name, ...startable({ engine, name, registered: engine.functions.get(name) }) });
}

export function makeWorkflow(engine: Engine, registered: Registered): Workflow<unknown, unknown> {
  return made(engine, { name: registered.name, ...startable({ engine, name: registered.name, registered }) });
}

/** What is called, and what makes it so in a run, outside one, or inside another step. */
function recordedCall(engine: Engine, registered: Registered, at: string, input: unknown, key: string | undefined): Promise<unknown> {
  const here = HERE.getStore();
  if (here instanceof Scope) {
    if (here.execution.engine !== engine) return Promise.reject(ofAnotherEngine(`step ${JSON.stringify(registered.name)}`));
    return (registered.isTransaction ? callTransaction : callStep)(here, registered, at, input, key);
  }
  return (registered.isTransaction ? plainTransaction : plainCall)(registered, input, engine.strict && here?.execution === undefined);
}

function callable(engine: Engine, registered: Registered): TransactionStep<unknown, unknown> {
  const place = new CallPlace();
  const step = (input?: unknown): Promise<unknown> => recordedCall(engine, registered, place.of(step), input, undefined);
  Object.defineProperty(step, "name", { value: registered.name });
  const options = (given: CallOptions): ((input?: unknown) => Promise<unknown>) => {
    checkNames(given, CALL_OPTIONS, `a call of ${JSON.stringify(registered.name)}`);
    const key = text(given.key, "key");
    const own = registered.withPolicy(given.retry, given.timeout);
    const called = (input?: unknown): Promise<unknown> => recordedCall(engine, own, location(called), input, key);
    return called;
  };
  return Object.assign(step, { options });
}

export function makeTransaction(engine: Engine, registered: Registered): TransactionStep<unknown, unknown> {
  return Object.freeze(callable(engine, registered));
}

export function makeStep(engine: Engine, registered: Registered): Step<unknown, unknown> {
  return made(engine, Object.assign(callable(engine, registered), startable({ engine, name: registered.name, registered })));
}
