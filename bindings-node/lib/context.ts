/** What a workflow's function gets as its second argument; each branch has its own. */

import { callNow, droppable } from "./calls.js";
import { ConfigInvalid } from "./errors_gen.js";
import { type StartArguments, type Startable, engineOf } from "./functions.js";
import { type Branch, branchesOf, first, gather } from "./groups.js";
import { Logger } from "./logging.js";
import { FLAG_SHIELDED, OP_PATCH, OP_RUN_KEY } from "./ops_gen.js";
import { type Attributes, type Policy, type StartOptions, checkNames, listed, name as checkName, text } from "./options.js";
import { Registered } from "./registered.js";
import { type Run, type RunLike, keyOrId, messageKeyOf, timeoutOf } from "./run.js";
import type { AnySchema, SchemaInput, SchemaOutput } from "./schema.js";
import { HERE, Scope, location, ofAnotherEngine, scopeInWorkflow } from "./scope.js";
import { start } from "./starting.js";
import { callStep } from "./step_call.js";
import type { StepContext } from "./step_context.js";
import type { Duration } from "./times.js";
import type { Decoded } from "./types.js";
import * as waits from "./waits.js";

/** Options of a step that is not declared. */
export interface InlineOptions extends Policy {
  /** Tells same-named calls of one branch apart. */
  key?: string | undefined;
  /** What the step depends on: recorded as a digest, so that a replay with another input is noticed. */
  input?: unknown;
  /** A schema of the result, asked on both ends. */
  output?: AnySchema | undefined;
}

export interface MapOptions<Item> {
  /** Names the branches, so that items may come in another order on replay. */
  key?: ((item: Item, index: number) => string) | undefined;
  /** So many at a time; default all. */
  limit?: number | undefined;
}

type Result<T> = Promise<T> | T;

type Output = Pick<InlineOptions, "output">;

/** Options beside which the compiler cannot hold a function's result against the schema: nobody knows whether there is one, or what the function returns. */
export type Unheld<T, Options extends Output, Known> = [Exclude<keyof Options, keyof Known>] extends [never]
  ? unknown extends T
    ? unknown
    : undefined extends Options["output"]
      ? unknown
      : never
  : never;

/** What the caller sees: what the schema gives. One that does not say what it gives only checks. */
export type Seen<T, Schema> = Schema extends AnySchema ? (unknown extends SchemaOutput<Schema> ? Decoded<T> : SchemaOutput<Schema>) : Decoded<T>;

/** A function of one branch. */
export type BranchFunction<T> = (context: WorkflowContext) => Promise<T> | T;

/** What the branches of a group give. */
export type Values<F extends readonly BranchFunction<unknown>[]> = { -readonly [K in keyof F]: F[K] extends BranchFunction<infer T> ? T : never };

const INLINE_OPTIONS: ReadonlySet<string> = new Set<keyof InlineOptions>(["retry", "timeout", "atMostOnce", "key", "input", "output"]);
const BRANCH_OPTIONS: ReadonlySet<string> = new Set<keyof MapOptions<unknown>>(["key", "limit"]);
const MAP_OPTIONS: ReadonlySet<string> = new Set([...BRANCH_OPTIONS, "retry", "timeout", "atMostOnce", "output"]);

const logger = new Logger();

export class WorkflowContext {
  readonly #scope: Scope;

  /** @internal */
  constructor(scope: Scope) {
    this.#scope = scope;
  }

  /** Key of this run, a uuid. */
  get run(): string {
    return this.#scope.execution.run;
  }

  /** The id it was started with, if any. */
  get runId(): string | undefined {
    return this.#scope.execution.runId ?? undefined;
  }

  /** Which attempt of the run this is, from 1. */
  get attempt(): number {
    return this.#scope.execution.attempt;
  }

  /** True while recorded calls are handed back. */
  get replaying(): boolean {
    return this.#scope.execution.replaying;
  }

  /** The attributes it was started with. */
  get attributes(): Attributes {
    return this.#scope.execution.given();
  }

  /** W3C trace context the run was started with, if any. */
  get traceParent(): string | undefined {
    return this.#scope.execution.traceParent ?? undefined;
  }

  /** Replay-aware: replayed records below warning are dropped. */
  get logger(): Logger {
    return logger;
  }

  #here(verb: string): Scope {
    return scopeInWorkflow(verb, this.#scope);
  }

  /** A durable wait: it holds no slot, and goes on where it was after a restart. */
  sleep(duration: Duration): Promise<void> {
    return waits.sleep(this.#here("sleep"), duration, location(this.sleep));
  }

  /** A durable wait for a point in time; one that has passed is no wait. */
  sleepUntil(when: Date): Promise<void> {
    return waits.sleepUntil(this.#here("sleepUntil"), when, location(this.sleepUntil));
  }

  /** The database's time, recorded: the same on every replay. */
  now(): Promise<Date> {
    return waits.now(this.#here("now"), location(this.now));
  }

  /** A random uuid, recorded. */
  uuid(): Promise<string> {
    return waits.uuid(this.#here("uuid"), location(this.uuid));
  }

  /** A number in [0, 1), recorded. */
  random(): Promise<number> {
    return waits.random(this.#here("random"), location(this.random));
  }

  /** Records any function as a step of this name. An `output` schema is asked on both ends. */
  runStep<O extends AnySchema>(name: string, step: (step: StepContext) => Result<SchemaInput<O>>, options: InlineOptions & { output: O }): Promise<SchemaOutput<O>>;
  runStep<T>(name: string, step: (step: StepContext) => Result<T>, options?: InlineOptions & { output?: undefined }): Promise<Decoded<T>>;
  runStep<T, Options extends InlineOptions = InlineOptions>(
    name: string,
    step: (step: StepContext) => Result<T>,
    options: Options & Unheld<T, Options, InlineOptions>,
  ): Promise<Seen<T, Options["output"]>>;
  runStep(name: string, step: (step: StepContext) => unknown, options: InlineOptions = {}): Promise<unknown> {
    const at = location(this.runStep);
    const scope = this.#here("runStep");
    checkNames(options, INLINE_OPTIONS, `runStep ${JSON.stringify(name)}`);
    const { key, input, ...policy } = options;
    if (typeof step !== "function") throw new ConfigInvalid(`runStep(${JSON.stringify(name)}) takes a function`);
    const body = (_: unknown, context: StepContext): unknown => step(context);
    const registered = new Registered({ kind: "step", name, body, where: at, ...policy });
    return callStep(scope, registered, at, input, text(key, "key"));
  }

  /** Runs the branches at once; waits for every one, then throws the first failure in their order. */
  all<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>> {
    return gather(this.#here("all"), "all", branchesOf("all", branches), undefined, undefined, location(this.all)) as Promise<Values<F>>;
  }

  /** The first branch to succeed; the others get their cancel signal and are not waited for. */
  any<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>[number]> {
    return first(this.#here("any"), "any", branchesOf("any", branches), location(this.any)) as Promise<Values<F>[number]>;
  }

  /** The first branch to settle, with its value or its error; the others get their cancel signal and are not waited for. */
  race<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>[number]> {
    return first(this.#here("race"), "race", branchesOf("race", branches), location(this.race)) as Promise<Values<F>[number]>;
  }

  /** One step of this name an item, at once. An `output` schema is asked on both ends. */
  map<Item, O extends AnySchema>(
    name: string,
    items: Iterable<Item>,
    step: (item: Item, step: StepContext) => Result<SchemaInput<O>>,
    options: MapOptions<Item> & Policy & { output: O },
  ): Promise<SchemaOutput<O>[]>;
  map<Item, T>(
    name: string,
    items: Iterable<Item>,
    step: (item: Item, step: StepContext) => Result<T>,
    options?: MapOptions<Item> & Policy & { output?: undefined },
  ): Promise<Decoded<T>[]>;
  map<Item, T, Options extends MapOptions<Item> & Policy & Output = MapOptions<Item> & Policy & Output>(
    name: string,
    items: Iterable<Item>,
    step: (item: Item, step: StepContext) => Result<T>,
    options: Options & Unheld<T, Options, MapOptions<Item> & Policy & Output>,
  ): Promise<Seen<T, Options["output"]>[]>;
  /** One branch an item, at once. */
  map<Item, T>(items: Iterable<Item>, branch: (item: Item, context: WorkflowContext) => Result<T>, options?: MapOptions<Item>): Promise<T[]>;
  map(...args: unknown[]): Promise<unknown[]> {
    const at = location(this.map);
    const scope = this.#here("map");
    const [name, given, body, options] = (typeof args[0] === "string" ? args : [undefined, ...args]) as [
      string | undefined,
      Iterable<unknown>,
      (item: unknown, context: never) => unknown,
      (MapOptions<unknown> & Policy)?,
    ];
    if (typeof body !== "function") throw new ConfigInvalid("map takes the items and a function: ctx.map(items, fn), or ctx.map(name, items, fn) for one step an item");
    // A branch has no attempts: those are of the steps it calls.
    if (options !== undefined) checkNames(options, name === undefined ? BRANCH_OPTIONS : MAP_OPTIONS, name === undefined ? "map(items, fn)" : "map(name, items, fn)");
    const { key, limit, ...policy } = options ?? {};
    const items = listed(given, "what map goes through");
    const keys = key === undefined ? undefined : items.map((item, index) => key(item, index));
    let branches: Branch[];
    if (name === undefined) branches = items.map((item) => (context: WorkflowContext) => body(item, context as never));
    else {
      const registered = new Registered({ kind: "step", name, body: body, where: at, ...policy });
      branches = items.map((item) => (_: WorkflowContext, branch: Scope) => callStep(branch, registered, at, item, undefined));
    }
    return gather(scope, "map", branches, keys, limit, at);
  }

  /** Starts a child run. */
  start<Input, Output>(workflow: Startable<Input, Output>, ...args: StartArguments<Input>): Promise<Run<Output>> {
    if (typeof (workflow as { name?: unknown } | null | undefined)?.name !== "string") throw new ConfigInvalid("start takes a workflow, a step, or app.reference(name)");
    const [input, options = {}] = args as [unknown, StartOptions?];
    const { engine } = this.#scope.execution;
    if ((engineOf(workflow) ?? engine) !== engine) throw ofAnotherEngine(JSON.stringify(workflow.name));
    return start<Output>({ engine, name: workflow.name, registered: engine.functions.get(workflow.name) }, input, options, this.start, this.#here("start"));
  }

  /** The next message of this topic to this run, exactly once; null when the time is over, as of a message that is null. */
  receive<T = unknown>(topic = "", options: { timeout?: Duration | undefined } = {}): Promise<T | null> {
    return waits.receive(this.#here("receive"), topic, timeoutOf(options, "receive"), location(this.receive)) as Promise<T | null>;
  }

  /** A message to a run (its handle, `{ key }` or id), recorded with this one. */
  send(run: RunLike, topic: string, message: unknown, options: { idempotencyKey?: string | undefined } = {}): Promise<void> {
    return waits.send(this.#here("send"), this.#key(run), topic, message, messageKeyOf(options), location(this.send));
  }

  /** Publishes a value of this run; others wait for it with `getEvent`. */
  setEvent(key: string, value: unknown): Promise<void> {
    return waits.setEvent(this.#here("setEvent"), key, value, location(this.setEvent));
  }

  /** Waits for an event of a run (its handle, `{ key }` or id); null when the time is over or the run has ended without it, as of an event whose value is null. */
  getEvent<T = unknown>(run: RunLike, key: string, options: { timeout?: Duration | undefined } = {}): Promise<T | null> {
    return waits.event(this.#here("getEvent"), this.#key(run), key, timeoutOf(options, "getEvent"), location(this.getEvent)) as Promise<T | null>;
  }

  #key(run: RunLike): string {
    const given = keyOrId(run);
    return "key" in given ? given.key : String(this.#scope.execution.engine.call(OP_RUN_KEY, [given.id])[0]);
  }

  /** True for runs that reach this point after the change; false for those recorded before it. */
  patch(name: string): boolean {
    const scope = this.#here("patch");
    return callNow(scope.execution, OP_PATCH, [scope.execution.id, scope.branch, scope.flags, checkName(name, "the name of a patch"), location(this.patch)])[0] === true;
  }

  /** Clean-up steps after a cancel: calls inside go on although the run was asked to cancel. */
  shielded<T>(cleanUp: (context: WorkflowContext) => Promise<T> | T): Promise<T> {
    return droppable(async () => {
      const scope = this.#here("shielded");
      const inner = new Scope(scope.execution, scope.branch, scope.flags | FLAG_SHIELDED);
      return HERE.run(inner, cleanUp, new WorkflowContext(inner));
    });
  }
}
