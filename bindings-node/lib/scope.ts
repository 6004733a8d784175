/** Where the calling code stands: which execution, which branch, inside which step. */

import { AsyncLocalStorage } from "node:async_hooks";
import type { Client } from "./client.js";
import type { Engine } from "./engine.js";
import { OutsideRun } from "./errors_gen.js";
import type { Frame } from "./frame.js";
import { PACKAGE_FOLDER } from "./native.js";
import { FLAG_SHIELDED } from "./ops_gen.js";
import type { Attributes } from "./options.js";

/** What cut a step short. */
export type Signal = "cancel" | "timeout" | "branch" | "stop";

/** The branch of a step that is a run of its own. */
export const JOB = "#job";

/** Who is told that a step is not waited for any longer. */
export interface Leaving {
  left(): void;
}

/** A step's function while it runs: what a signal reaches. */
export class RunningStep {
  /** Once one came. */
  signal: Signal | undefined;
  onLeave: Leaving | undefined;
  /** Its neighbours among the running steps of its execution. */
  before: RunningStep | undefined;
  after: RunningStep | undefined;
  private controller: AbortController | undefined;
  private reason: unknown;

  constructor(
    /** None: called outside a run. */
    readonly execution: Execution | undefined,
    readonly name: string,
    readonly branch: string,
    readonly seq: number,
    readonly attempt: number,
    readonly idempotencyKey: string,
    readonly place: string,
    /** Clean-up: a cancel of the run lets it end. */
    readonly shielded = false,
  ) {}

  raise(signal: Signal, reason: unknown): void {
    if (this.signal !== undefined) return;
    this.signal = signal;
    this.reason = reason;
    this.controller?.abort(reason);
    // A cancelled step is waited for: clean-up must not start while the effect it undoes is still on its way. The engine bounds that wait.
    if (signal !== "cancel") this.onLeave?.left();
  }

  /** Made when asked for: an AbortController costs more than recording the step does. */
  get abortSignal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.signal !== undefined) this.controller.abort(this.reason);
    }
    return this.controller.signal;
  }
}

/** One execution of one run in this process. `id` is what the engine calls it. */
export class Execution {
  readonly run: string;
  readonly name: string;
  readonly attempt: number;
  replaying: boolean;
  readonly runId: string | null;
  readonly attributes: string | null;
  readonly traceParent: string | null;
  readonly idempotencyKey: string;
  readonly deadline: number | undefined;
  /** Why it has ended, once it has: nothing done from then on is recorded. */
  stopped: string | undefined;
  cancelled: { by: string; why: string } | undefined;
  warned = false;
  /** A turn has been asked for and not yet come. */
  turning = false;
  /** The step begun last; the others hang on it. A set would be made for every run, for the few whose steps get a signal. */
  private last: RunningStep | undefined;

  constructor(
    readonly engine: Engine,
    readonly client: Client,
    readonly id: number,
    frame: Frame,
  ) {
    const text = (index: number): string | null => (typeof frame[index] === "string" ? frame[index] : null);
    this.run = text(0) ?? "";
    this.name = text(1) ?? "";
    this.attempt = Number(frame[3]);
    this.replaying = frame[4] === true;
    this.runId = text(5);
    this.attributes = text(7);
    this.traceParent = text(8);
    this.idempotencyKey = text(9) ?? "";
    this.deadline = typeof frame[10] === "number" ? performance.now() + frame[10] : undefined;
  }

  /** The attributes it was started with; read when they are asked for. */
  given(): Attributes {
    return this.attributes === null ? {} : (JSON.parse(this.attributes) as Attributes);
  }

  begun(step: RunningStep): void {
    step.before = this.last;
    if (this.last !== undefined) this.last.after = step;
    this.last = step;
  }

  over(step: RunningStep): void {
    if (step.before !== undefined) step.before.after = step.after;
    if (step.after !== undefined) step.after.before = step.before;
    else this.last = step.before;
    step.before = step.after = undefined;
  }

  /** Steps that run now, in the order they were begun. */
  running(): RunningStep[] {
    const out: RunningStep[] = [];
    for (let step = this.last; step !== undefined; step = step.before) out.push(step);
    return out.reverse();
  }

  /** Steps of this branch, and of those inside it, are not waited for any longer. */
  leaveBranch(prefix: string, reason: Error): void {
    for (const step of this.running()) {
      if (step.branch === prefix || step.branch.startsWith(`${prefix}/`)) step.raise("branch", reason);
    }
  }

  stop(why: string): void {
    if (this.stopped !== undefined) return;
    this.stopped = why;
    for (const step of this.running()) step.raise("stop", new Error(`this execution has ended (${why})`));
  }
}

/** Workflow code: the execution, and the branch its calls take their places in. */
export class Scope {
  constructor(
    readonly execution: Execution,
    readonly branch: string,
    readonly flags: number,
  ) {}

  get isShielded(): boolean {
    return (this.flags & FLAG_SHIELDED) !== 0;
  }
}

/** Nothing: outside any run. A step: inside its function, in a run or, where it has no execution, called outside one. */
export const HERE = new AsyncLocalStorage<Scope | RunningStep>();

/** The step this code runs in, if any. */
export function stepHere(): RunningStep | undefined {
  const here = HERE.getStore();
  return here instanceof RunningStep ? here : undefined;
}

/** The workflow code runs in, not inside one of its steps. */
export function scopeHere(): Scope | undefined {
  const here = HERE.getStore();
  return here instanceof Scope ? here : undefined;
}

/** The execution of the surrounding run, if any. */
export function executionHere(): Execution | undefined {
  return HERE.getStore()?.execution;
}

/** The scope a call of this engine is recorded in: inside a workflow, and not inside one of its steps. A call of `what` in a workflow of another engine is refused. */
export function scopeOf(engine: Engine, what: string): Scope | undefined {
  const scope = scopeHere();
  if (scope !== undefined && scope.execution.engine !== engine) throw ofAnotherEngine(what);
  return scope;
}

/** Such a call would be recorded nowhere, and happen again with every replay. */
export function ofAnotherEngine(what: string): OutsideRun {
  return new OutsideRun(`${what} is of another engine than this workflow, which could not record it: call it inside a step`);
}

/** The scope of a call that belongs inside a workflow, and not inside one of its steps. `given`: that of the context it was called on. */
export function scopeInWorkflow(verb: string, given?: Scope): Scope {
  const here = HERE.getStore();
  const { execution } = here ?? {};
  // A context kept where several runs find it: what this run calls would be recorded in the other one, and neither could be replayed.
  if (given !== undefined && execution !== undefined && execution !== given.execution) {
    throw new OutsideRun(`${verb} was called on the context of run ${given.execution.run}, by code of run ${execution.run}: each run uses its own context, the second argument of its function`);
  }
  if (here instanceof RunningStep) {
    const inside = execution === undefined ? "" : `, not inside its step ${JSON.stringify(here.name)}`;
    throw new OutsideRun(`${verb} belongs inside a workflow${inside}`);
  }
  // The surroundings win: the context of the workflow, used inside a branch, must take its place in that branch.
  const scope = here ?? given;
  if (scope === undefined) throw new OutsideRun(`${verb} belongs inside a workflow`);
  return scope;
}

/** `file:line` of whoever called `below`: for messages only, so the last two parts of the path will do. */
export function location(below: (...args: never[]) => unknown): string {
  const direct = siteAbove(below, 1);
  // The sugar of the engine calls the context's methods: the caller is whoever stands outside this package.
  return direct !== undefined && PACKAGE_FOLDER !== undefined && direct.file.startsWith(PACKAGE_FOLDER) ? (siteAbove(below, 4) ?? direct).text : (direct?.text ?? "");
}

/** Each of the first calls from one place is looked at; from then on the next look comes after a fraction of the calls there were, and not later than this many. */
const SURE = 64;
const FRACTION = 16;
const SELDOM = 512;

/**
 * Where one declared step is called. Looking at the stack costs more than everything else about a recorded step, and nearly every step is called from one place; a
 * step that has a second one is looked at each time. A message may name the old place for the few calls in between.
 */
export class CallPlace {
  private text = "";
  private calls = 0;
  private look = 0;

  of(below: (...args: never[]) => unknown): string {
    if (++this.calls < this.look) return this.text;
    const found = location(below);
    if (found !== this.text && this.text !== "") this.look = -Infinity;
    else if (this.calls >= SURE) this.look = this.calls + Math.min(Math.ceil(this.calls / FRACTION), SELDOM);
    this.text = found;
    return found;
  }
}

interface Site {
  file: string;
  text: string;
}

function siteAbove(below: (...args: never[]) => unknown, limit: number): Site | undefined {
  const before = Error.stackTraceLimit;
  const prepare = Error.prepareStackTrace;
  Error.stackTraceLimit = limit;
  Error.prepareStackTrace = limit === 1 ? firstSite : outerSite;
  const holder: { stack?: unknown } = {};
  Error.captureStackTrace(holder, below);
  const found = holder.stack;
  Error.prepareStackTrace = prepare;
  Error.stackTraceLimit = before;
  return typeof found === "object" ? (found as Site) : undefined;
}

/** By file, then by the offset in it: the number of its line costs more to find than everything else about a call, and there are few places that call. */
const sites = new Map<string, Map<number, Site>>();

function siteOf(site: NodeJS.CallSite): Site {
  const file = site.getFileName() ?? "";
  const offset = (site as unknown as { getPosition(): number }).getPosition();
  let known = sites.get(file);
  if (known === undefined) {
    known = new Map();
    // Code that is made at run time has no file and no end of places.
    if (file !== "") sites.set(file, known);
  }
  let found = known.get(offset);
  if (found === undefined) {
    let cut = Math.max(file.lastIndexOf("/"), file.lastIndexOf("\\"));
    cut = Math.max(file.lastIndexOf("/", cut - 1), file.lastIndexOf("\\", cut - 1));
    found = { file, text: `${cut < 0 ? file : file.slice(cut + 1)}:${String(site.getLineNumber() ?? 0)}` };
    known.set(offset, found);
  }
  return found;
}

function firstSite(_: Error, [site]: NodeJS.CallSite[]): Site | undefined {
  return site === undefined ? undefined : siteOf(site);
}

function outerSite(_: Error, above: NodeJS.CallSite[]): Site | undefined {
  const site = above.find((other) => PACKAGE_FOLDER !== undefined && other.getFileName()?.startsWith(PACKAGE_FOLDER) === false) ?? above[0];
  return site === undefined ? undefined : siteOf(site);
}
