/** `Everstep`: one engine, and everything a program declares on it. */

import { droppable } from "./calls.js";
import { Configuration } from "./configuration.js";
import type { Branch } from "./groups.js";
import { Engine } from "./engine.js";
import { ConfigInvalid, IdInvalid, OutsideStep, RegisteredLate } from "./errors_gen.js";
import type { ErrorClass, ErrorForm } from "./failures.js";
import type { Read } from "./frame.js";
import {
  type Reference,
  type Startable,
  type StartArguments,
  type Step,
  type TransactionStep,
  type Workflow,
  makeReference,
  makeStep,
  makeTransaction,
  makeWorkflow,
} from "./functions.js";
import { type BranchFunction, type InlineOptions, type MapOptions, type Seen, type Unheld, type Values, WorkflowContext } from "./context.js";
import { Logger } from "./logging.js";
import { OP_ADOPT, OP_INFO, OP_LIST_QUEUES, OP_LIST_RUNS, OP_MIGRATE, OP_MIGRATION_SQL, OP_PAUSE_QUEUE, OP_PUT_QUEUE, OP_RUN_KEY } from "./ops_gen.js";
import { type Policy, type StartOptions, checkNames, flag, name as checkName } from "./options.js";
import type { Transaction } from "./own_transaction.js";
import { type Declaration, Registered } from "./registered.js";
import { Run, type RunLike } from "./run.js";
import { type Page, type QueueInfo, type QueueOptions, type RunFilter, type RunInfo, filterRecord, queueInfo, queueOf, queueRecord, runInfo } from "./runs.js";
import { type AnySchema, type SchemaInput, type SchemaOutput, type StandardSchema, isSchema } from "./schema.js";
import { executionHere, location, scopeInWorkflow, scopeOf, stepHere } from "./scope.js";
import { StepContext } from "./step_context.js";
import { type Duration, milliseconds } from "./times.js";
import type { TransactionSource } from "./transaction_source.js";
import type { Decoded } from "./types.js";

/** 25 s, within the 30 s most orchestrators give. */
const GRACE: Duration = { seconds: 25 };

export interface EverstepOptions {
  /** URL. Default: `EVERSTEP_DATABASE_URL`, else the file `everstep.db`, which is refused in production. */
  database?: string | undefined;
  /** PostgreSQL schema; default `everstep`. */
  schema?: string | undefined;
  /** Isolates applications in one database; default `default`. */
  namespace?: string | undefined;
  /** Default `EVERSTEP_ENV`, else `development`. */
  environment?: string | undefined;
  /** The application's build id. */
  version?: string | undefined;
  /** A client runs nothing, a starter starts and runs nothing itself; default worker. */
  role?: "client" | "starter" | "worker" | undefined;
  /** Names of the queues this worker serves; default all. `[]`: only runs without a queue. */
  queues?: readonly string[] | undefined;
  /** Runs executing at once; default 100. */
  slots?: number | undefined;
  /** Default 10 s. */
  lease?: Duration | undefined;
  /** How long calls from outside a run wait for the database; default 5 minutes. */
  outageBudget?: Duration | undefined;
  /** Bytes; default 16 MiB. */
  maxPayload?: number | undefined;
  /** Default: on SQLite and on empty databases. */
  autoMigrate?: boolean | undefined;
  /** `always` releases at every wait and replays before every step: for tests. */
  replay?: "normal" | "always" | undefined;
  /** A step called outside a workflow is an error. */
  strict?: boolean | undefined;
  /** Further keys of the configuration table in core/docs/protocol.md, as they stand there. */
  settings?: Readonly<Record<string, unknown>> | undefined;
}

export interface StepOptions extends Policy {
  /** The attempt is recorded first; after a crash the workflow gets `StepInterrupted` and decides. */
  atMostOnce?: boolean | undefined;
}

/** Those of a step but `atMostOnce`: its rows and its record commit together or not at all. */
export type TransactionOptions = Omit<Policy, "atMostOnce">;

/** Defaults of its runs, over which the options of a start are laid. */
export interface WorkflowOptions {
  /** Attempts of the whole run; a retry goes on at the step that failed. */
  retry?: Policy["retry"];
  /** So long after its start a run is cancelled, with its children. */
  deadline?: Duration | undefined;
  /** A workflow, or a step as a job, that is started with the outcome, a `Finished`, in the commit that ends a run: the declared one, or its name. */
  onFinish?: StartOptions["onFinish"];
  /** Stored with its runs and shown in their status; it pins them to no build. */
  version?: string | undefined;
  /** Only workers of this label run it. */
  label?: string | undefined;
}

interface Schemas<I extends AnySchema, O extends AnySchema> {
  input?: I | undefined;
  output?: O | undefined;
}

type Result<T> = Promise<T> | T;

const STEP_NAMES = new Set(["retry", "timeout", "atMostOnce", "input", "output"]);
const TRANSACTION_NAMES = new Set(["retry", "timeout"]);
const WORKFLOW_NAMES = new Set(["retry", "deadline", "onFinish", "version", "label", "input", "output"]);
const GRACE_NAMES = new Set(["grace"]);
const APP_NAMES = new Set([
  "database",
  "schema",
  "namespace",
  "environment",
  "version",
  "role",
  "queues",
  "slots",
  "lease",
  "outageBudget",
  "maxPayload",
  "autoMigrate",
  "replay",
  "strict",
  "settings",
]);

/**
 * A durable-workflow engine inside this process. Making one connects nothing and starts no thread; `await launch()` does. Several may live in one process.
 */
export class Everstep implements AsyncDisposable {
  readonly #engine: Engine;
  readonly #logger = new Logger();

  constructor(options: EverstepOptions | string = {}) {
    const given: EverstepOptions = typeof options === "string" ? { database: options } : options;
    checkNames(given, APP_NAMES, "Everstep");
    this.#engine = new Engine(new Configuration(given), flag(given.strict, "strict"));
  }

  // -- declarations

  /**
   * Declares a step: its outcome is recorded before the next one starts, and a recorded step never runs again. Its function gets its one input and a `StepContext`.
   * Options: `retry`, `timeout` and `atMostOnce`, see `StepOptions`; `input` and `output` schemas, which are asked on both ends.
   */
  step<I extends AnySchema, O extends AnySchema>(
    name: string,
    step: (input: SchemaOutput<I>, step: StepContext) => Result<SchemaInput<O>>,
    options: StepOptions & { input: I; output: O },
  ): Step<SchemaInput<I>, SchemaOutput<O>>;
  step<I extends AnySchema, Output>(
    name: string,
    step: (input: SchemaOutput<I>, step: StepContext) => Result<Output>,
    options: StepOptions & { input: I; output?: undefined },
  ): Step<SchemaInput<I>, Decoded<Output>>;
  step<Input, O extends AnySchema>(
    name: string,
    step: (input: Input, step: StepContext) => Result<SchemaInput<O>>,
    options: StepOptions & { input?: undefined; output: O },
  ): Step<Input, SchemaOutput<O>>;
  step<Input, Output>(name: string, step: (input: Input, step: StepContext) => Result<Output>, options?: StepOptions): Step<Input, Decoded<Output>>;
  step(name: string, step: (input: never, step: StepContext) => unknown, options: StepOptions & Schemas<AnySchema, AnySchema> = {}): unknown {
    checkNames(options, STEP_NAMES, `step ${JSON.stringify(name)}`);
    const registered = this.#declare({ kind: "step", name, body: step, where: location(this.step), ...options });
    return makeStep(this.#engine, registered);
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all. `source`: `pgTx(pool)` and its like, on the engine's database; without one the
   * engine's own connection, on both stores. Committing is not the function's business. `retry` and `timeout` as of a step; a conflict (40001, 40P01) or a
   * connection lost before COMMIT runs the function again by itself, whatever the policy.
   */
  transaction<Tx, Input, Output>(
    name: string,
    source: TransactionSource<Tx>,
    body: (tx: Tx, input: Input, step: StepContext) => Result<Output>,
    options?: TransactionOptions,
  ): TransactionStep<Input, Decoded<Output>>;
  transaction<Input, Output>(name: string, body: (tx: Transaction, input: Input, step: StepContext) => Result<Output>, options?: TransactionOptions): TransactionStep<Input, Decoded<Output>>;
  transaction(name: string, ...args: unknown[]): unknown {
    const own = typeof args[0] === "function";
    const [source, body, options = {}] = (own ? [null, ...args] : args) as [TransactionSource<unknown> | null, Declaration["body"], Policy?];
    if (!own && typeof source?.open !== "function") {
      throw new ConfigInvalid(`transaction ${JSON.stringify(name)} takes a source such as pgTx(pool), or no source at all for the engine's own connection`);
    }
    if ("atMostOnce" in Object(options)) throw new ConfigInvalid(`transaction ${JSON.stringify(name)}: atMostOnce is not for a transaction, whose rows and record commit together or not at all`);
    checkNames(options, TRANSACTION_NAMES, `transaction ${JSON.stringify(name)}`);
    const registered = this.#declare({ kind: "step", name, body, where: location(this.transaction), source, ...options });
    return makeTransaction(this.#engine, registered);
  }

  /**
   * Declares a workflow. Code outside steps runs again whenever a run resumes: keep it free of effects. Its function gets its one input and a `WorkflowContext`.
   * Options: `retry`, `deadline`, `onFinish`, `version`, `label`, see `WorkflowOptions`; `input` and `output` schemas, which are asked on both ends.
   */
  workflow<I extends AnySchema, O extends AnySchema>(
    name: string,
    workflow: (input: SchemaOutput<I>, context: WorkflowContext) => Result<SchemaInput<O>>,
    options: WorkflowOptions & { input: I; output: O },
  ): Workflow<SchemaInput<I>, SchemaOutput<O>>;
  workflow<I extends AnySchema, Output>(
    name: string,
    workflow: (input: SchemaOutput<I>, context: WorkflowContext) => Result<Output>,
    options: WorkflowOptions & { input: I; output?: undefined },
  ): Workflow<SchemaInput<I>, Decoded<Output>>;
  workflow<Input, O extends AnySchema>(
    name: string,
    workflow: (input: Input, context: WorkflowContext) => Result<SchemaInput<O>>,
    options: WorkflowOptions & { input?: undefined; output: O },
  ): Workflow<Input, SchemaOutput<O>>;
  workflow<Input, Output>(name: string, workflow: (input: Input, context: WorkflowContext) => Result<Output>, options?: WorkflowOptions): Workflow<Input, Decoded<Output>>;
  workflow(
    name: string,
    workflow: (input: never, context: WorkflowContext) => unknown,
    options: WorkflowOptions & Schemas<AnySchema, AnySchema> = {},
  ): unknown {
    checkNames(options, WORKFLOW_NAMES, `workflow ${JSON.stringify(name)}`);
    const registered = this.#declare({ kind: "workflow", name, body: workflow, where: location(this.workflow), ...options });
    return makeWorkflow(this.#engine, registered);
  }

  #declare(declaration: Declaration): Registered {
    for (const end of ["input", "output"] as const) {
      if (declaration[end] !== undefined && !isSchema(declaration[end])) throw new ConfigInvalid(`${end} of ${JSON.stringify(declaration.name)} is no Standard Schema (zod, valibot, arktype)`);
    }
    const registered = new Registered(declaration);
    this.#engine.register(registered);
    return registered;
  }

  /** A workflow known by name: of another process, another program, another language. */
  reference<Input = unknown, Output = unknown>(name: string): Reference<Input, Output> {
    return makeReference(this.#engine, name) as Reference<Input, Output>;
  }

  /** Declares an error type: it is recorded by its own properties and rebuilt as this class, on the first run and on replay. */
  error<E extends Error>(code: string, kind: ErrorClass<E>, form?: ErrorForm<E>): void {
    this.#engine.declared.add(code, kind, form);
  }

  /** Declares a queue, made at launch. What an operator changed since is left alone. Returns its name. */
  queue(name: string, options: QueueOptions = {}): string {
    this.#engine.checkOpen();
    if (this.#engine.launched) throw new RegisteredLate(`queue ${JSON.stringify(name)} was declared after launch; putQueue changes queues at run time`);
    this.#engine.queues.push(queueRecord(queueOf(name, options)));
    return name;
  }

  // -- life

  /** Connects, claims, runs. A client only connects. */
  launch(): Promise<void> {
    return this.#engine.launch();
  }

  /** Claims no more, lets runs finish or park, hands the rest over. `grace`: 25 s. Not from inside a run, which it would wait for. */
  async close(options: { grace?: Duration | undefined } = {}): Promise<void> {
    checkNames(options, GRACE_NAMES, "close");
    await this.#engine.close(milliseconds(options.grace ?? GRACE, "grace"));
  }

  /** For a process that is nothing but a worker: launches, works until SIGTERM or SIGINT, then closes. */
  async serve(options: { grace?: Duration | undefined } = {}): Promise<void> {
    checkNames(options, GRACE_NAMES, "serve");
    await this.#engine.serve(milliseconds(options.grace ?? GRACE, "grace"));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Brings the schema to this library's version. */
  async migrate(): Promise<number> {
    return Number((await this.#engine.request(OP_MIGRATE, []))[0]);
  }

  /** Stamps this environment and this database: a copied database may run from now on. */
  async adopt(): Promise<void> {
    await this.#engine.request(OP_ADOPT, []);
  }

  /** The migrations as text, to run by hand where this role may not change the schema. */
  migrationSql(store: "postgres" | "sqlite" = "postgres", schema?: string): string {
    return String(this.#engine.call(OP_MIGRATION_SQL, [store, schema])[0]);
  }

  /**
   * This engine: `phase` (opened, connected, which is what a client stays, launched, draining, closed), `store`, `namespace`, `schema`, `environment`,
   * `version`; `incarnation`, the worker's key, null for a client; `held`, why it claims nothing, if so; `executing`, runs in memory now; `slots`, `lease_ms`,
   * `beat_ms`, `max_parked`, `release_after_ms`, `max_payload`, `cancel_grace_ms`, `max_crashes`, `outage_budget_ms`; and `counters`, since its start:
   * `batches` and `rows` written, `claims` and the runs `claimed` by them, `looks` for work, `ticks` of housekeeping, `leases_lost`, workers `reaped`, `hints`
   * heard, runs `released`.
   */
  info(): Record<string, unknown> {
    return JSON.parse(String(this.#engine.call(OP_INFO, [])[0])) as Record<string, unknown>;
  }

  // -- runs

  /** The handle of a run by its id, or by its key. Looks nothing up. */
  run<Output = unknown>(id: string | { key: string }): Run<Output> {
    const key: unknown = typeof id === "object" ? (id as { key?: unknown } | null)?.key : id;
    if (typeof key !== "string") throw new IdInvalid("run takes the id a run was started with, a text, or { key }");
    if (typeof id === "object") return new Run<Output>(this.#engine, id.key, undefined);
    return new Run<Output>(this.#engine, this.keyOf(id), undefined, id);
  }

  /** The key of the run with this id. */
  keyOf(id: string): string {
    return String(this.#engine.call(OP_RUN_KEY, [checkName(id, "the id of a run")])[0]);
  }

  /** Runs, newest first, one page; `after` is the `next` of the page before. */
  async runs(filter: RunFilter = {}): Promise<Page<RunInfo>> {
    const [records, next] = await this.#engine.request(OP_LIST_RUNS, [filterRecord(filter)]);
    return { items: (records as Read[]).map(runInfo), next: typeof next === "string" ? next : null };
  }

  /** A message to a run (its handle, `{ key }` or id); kept until it is received. Inside a workflow the send is recorded. */
  send(run: RunLike, topic: string, message: unknown, options: { idempotencyKey?: string | undefined } = {}): Promise<void> {
    return droppable(async () => {
      const scope = scopeOf(this.#engine, "app.send");
      if (scope !== undefined) return new WorkflowContext(scope).send(run, topic, message, options);
      return this.#handle(run).send(topic, message, options);
    });
  }

  /** Waits for an event of a run (its handle, `{ key }` or id); null when the time is over or the run has ended without it, as of an event whose value is null. */
  getEvent<T = unknown>(run: RunLike, key: string, options: { timeout?: Duration | undefined } = {}): Promise<T | null> {
    return droppable(async () => this.#handle(run).getEvent<T>(key, options));
  }

  #handle(run: RunLike): Run<unknown> {
    return run instanceof Run ? run : this.run(run);
  }

  // -- queues

  /** Makes or changes a queue now, as an operator: effective in the whole fleet within two seconds. */
  async putQueue(name: string, options: QueueOptions = {}): Promise<QueueInfo> {
    return queueInfo((await this.#engine.request(OP_PUT_QUEUE, [queueRecord(queueOf(name, options)), true]))[0] as Read);
  }

  /** Every queue of this namespace, with its limits as they are now. */
  async queues(): Promise<QueueInfo[]> {
    return ((await this.#engine.request(OP_LIST_QUEUES, []))[0] as Read[]).map(queueInfo);
  }

  /** Nothing more is claimed from it; what runs goes on. */
  pauseQueue(name: string): Promise<void> {
    return this.#setPaused(name, true);
  }

  /** Ends the pause: what has waited is claimed in its order. */
  resumeQueue(name: string): Promise<void> {
    return this.#setPaused(name, false);
  }

  async #setPaused(name: string, paused: boolean): Promise<void> {
    // One operation: to read the queue and write it back would undo what another operator changes in between.
    await this.#engine.request(OP_PAUSE_QUEUE, [checkName(name, "the name of a queue"), paused]);
  }

  // -- sugar: the context of the surrounding workflow

  /** The context of the workflow this code runs in, or of its innermost branch. */
  context(): WorkflowContext {
    return new WorkflowContext(scopeInWorkflow("context"));
  }

  /** A durable wait: it holds no slot, and goes on where it was after a restart. */
  sleep(duration: Duration): Promise<void> {
    return this.#inside("sleep").sleep(duration);
  }

  /** A durable wait for a point in time; one that has passed is no wait. */
  sleepUntil(when: Date): Promise<void> {
    return this.#inside("sleepUntil").sleepUntil(when);
  }

  /** The database's time, recorded: the same on every replay. */
  now(): Promise<Date> {
    return this.#inside("now").now();
  }

  /** A random uuid, recorded. */
  uuid(): Promise<string> {
    return this.#inside("uuid").uuid();
  }

  /** A number in [0, 1), recorded. */
  random(): Promise<number> {
    return this.#inside("random").random();
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
    return this.#inside("runStep").runStep(name, step, options);
  }

  /** Runs the branches at once; waits for every one, then throws the first failure in their order. */
  all<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>> {
    return this.#inside("all").all(branches);
  }

  /** The first branch to succeed; the others get their cancel signal and are not waited for. */
  any<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>[number]> {
    return this.#inside("any").any(branches);
  }

  /** The first branch to settle, with its value or its error; the others get their cancel signal and are not waited for. */
  race<const F extends readonly BranchFunction<unknown>[]>(branches: F): Promise<Values<F>[number]> {
    return this.#inside("race").race(branches);
  }

  /** One branch an item, at once. One step an item is `ctx.map(name, items, step)`. */
  map<Item, T>(items: Iterable<Item>, branch: (item: Item, context: WorkflowContext) => Promise<T> | T, options?: MapOptions<Item>): Promise<T[]> {
    return this.#inside("map").map(items, branch, options);
  }

  /** The next message of this topic to this run, exactly once; null when the time is over, as of a message that is null. */
  receive<T = unknown>(topic = "", options: { timeout?: Duration | undefined } = {}): Promise<T | null> {
    return this.#inside("receive").receive<T>(topic, options);
  }

  /** Publishes a value of this run; others wait for it with `getEvent`. */
  setEvent(key: string, value: unknown): Promise<void> {
    return this.#inside("setEvent").setEvent(key, value);
  }

  /** True for runs that reach this point after the change; false for those recorded before it. */
  patch(name: string): boolean {
    return this.#inside("patch").patch(name);
  }

  /** Clean-up steps after a cancel: calls inside go on although the run was asked to cancel. */
  shielded<T>(cleanUp: (context: WorkflowContext) => Promise<T> | T): Promise<T> {
    return this.#inside("shielded").shielded(cleanUp);
  }

  #inside(verb: string): WorkflowContext {
    return new WorkflowContext(scopeInWorkflow(verb));
  }

  /** For workflow and step code: replayed records below warning are dropped. */
  get logger(): Logger {
    return this.#logger;
  }

  /** The key of the run this code belongs to; undefined outside one. */
  get runKey(): string | undefined {
    return executionHere()?.run;
  }

  /** The key to pass to an outside service: the same in every attempt of this step. */
  idempotencyKey(): string {
    return this.#step("idempotencyKey").idempotencyKey;
  }

  /** Which attempt of the running step this is, from 1. */
  attempt(): number {
    return stepHere()?.attempt ?? 1;
  }

  /** Aborted when the running step is to end. */
  signal(): AbortSignal {
    return this.#step("signal").signal;
  }

  #step(verb: string): StepContext {
    const step = stepHere();
    if (step === undefined) throw new OutsideStep(`${verb} exists only inside a step: outside there is nothing it could stay the same for`);
    return new StepContext(step);
  }
}

export type { Branch, StandardSchema, StartArguments, Startable, StartOptions };
