/**
 * all, map, any and race. They take functions: a promise has already taken its place in the wrong branch.
 *
 * `all` and `map` wait for every branch, then raise the first failure in branch order: nothing goes on behind the workflow's back. `any` and `race` record their
 * winner; the others get their cancel signal and are not waited for.
 */

import { bytes, call, droppable, never, unwind } from "./calls.js";
import { decode } from "./codec.js";
import { WorkflowContext } from "./context.js";
import { ConfigInvalid, Mismatch } from "./errors_gen.js";
import { Cancelled } from "./failures.js";
import { OP_BEGIN_GROUP, OP_FINISH_GROUP, OP_LEAVE_BRANCH, VERDICT_RECORDED, VERDICT_RUN } from "./ops_gen.js";
import type { Frame } from "./frame.js";
import { HERE, Scope } from "./scope.js";

export type GroupKind = "all" | "map" | "any" | "race";
/** What runs in one branch, given that branch's context. */
export type Branch = (context: WorkflowContext, scope: Scope) => unknown;

interface Settled {
  index: number;
  failed: boolean;
  value: unknown;
}

class Group {
  readonly seq: number;
  /** The winner recorded before this execution, if any. */
  readonly winner: number | undefined;

  constructor(
    readonly scope: Scope,
    readonly kind: GroupKind,
    private readonly names: readonly string[],
    at: string,
  ) {
    const verdict = call(scope.execution, OP_BEGIN_GROUP, [scope.execution.id, scope.branch, scope.flags, kind, at]);
    if (verdict[0] === VERDICT_RUN) this.seq = Number(verdict[1]);
    else if (verdict[0] === VERDICT_RECORDED) this.seq = Number(verdict[3]);
    else unwind(scope.execution, verdict);
    if (verdict[0] === VERDICT_RECORDED && (kind === "any" || kind === "race")) this.winner = this.indexOf(verdict[2]);
  }

  private indexOf(winner: unknown): number {
    // As recorded, JSON: an index as a number, a key as a text.
    const data = bytes(winner);
    const name: unknown = data !== null ? decode(data) : typeof winner === "string" ? JSON.parse(winner) : winner;
    const text = typeof name === "string" ? `k:${name}` : String(name);
    const index = this.names.indexOf(text);
    if (index < 0) throw new Mismatch(`the recorded winner ${JSON.stringify(text)} of this ${this.kind} is none of its branches: the program has changed`);
    return index;
  }

  private path(index: number): string {
    return `${this.scope.branch}/${String(this.seq)}/${this.names[index] ?? ""}`;
  }

  /** The engine answers what losers ask from now on; what they run hears it here. */
  leaveLosers(winner: number): void {
    for (let index = 0; index < this.names.length; index++) {
      if (index !== winner) this.scope.execution.leaveBranch(this.path(index), new Cancelled("", "another branch has won"));
    }
  }

  async run(index: number, branch: Branch): Promise<Settled> {
    const { execution, flags } = this.scope;
    const inner = new Scope(execution, this.path(index), flags);
    let out: Settled;
    try {
      out = { index, failed: false, value: await HERE.run(inner, branch, new WorkflowContext(inner), inner) };
    } catch (error) {
      out = { index, failed: true, value: error };
    }
    if (execution.stopped !== undefined) return never();
    if (this.kind === "all" || this.kind === "map") call(execution, OP_LEAVE_BRANCH, [execution.id, inner.branch]);
    return out;
  }

  async finish(index: number): Promise<number> {
    const { execution, branch } = this.scope;
    const verdict: Frame = await execution.client.ask(execution, OP_FINISH_GROUP, [execution.id, branch, this.seq, this.names[index]]);
    if (verdict[0] !== VERDICT_RECORDED) unwind(execution, verdict);
    return verdict[2] === null || verdict[2] === undefined ? index : this.indexOf(verdict[2]);
  }
}

function open(scope: Scope, kind: GroupKind, branches: readonly Branch[], keys: readonly string[] | undefined, at: string): Group {
  // `/` separates levels of a branch's path.
  const names = branches.map((_, index) => (keys === undefined ? String(index) : `k:${String(keys[index]).replaceAll("%", "%25").replaceAll("/", "%2F")}`));
  if (new Set(names).size !== names.length) throw new ConfigInvalid(`${kind}: two items have the same key`);
  return new Group(scope, kind, names, at);
}

/** What `all`, `any` and `race` are given, checked. */
export function branchesOf(kind: GroupKind, given: readonly unknown[]): Branch[] {
  if (!Array.isArray(given)) throw new ConfigInvalid(`${kind} takes an array of functions`);
  for (const branch of given) {
    if (typeof branch === "function") continue;
    if (branch instanceof Promise) branch.catch(() => undefined);
    const what = branch instanceof Promise ? "promises that have already started" : `a ${typeof branch}`;
    throw new ConfigInvalid(`${kind} takes functions, not ${what}: write ${kind}([() => step(x)]) instead of ${kind}([step(x)])`);
  }
  if (given.length === 0 && (kind === "any" || kind === "race")) throw new ConfigInvalid(`${kind} of nothing has no winner`);
  return given as Branch[];
}

/** Every branch's value, in their order; `limit` of them at a time. */
export function gather(
  scope: Scope,
  kind: "all" | "map",
  branches: readonly Branch[],
  keys: readonly string[] | undefined,
  limit: number | undefined,
  at: string,
): Promise<unknown[]> {
  if (limit !== undefined && !(Number.isSafeInteger(limit) && limit >= 1)) throw new ConfigInvalid("limit is a whole number, at least 1");
  return droppable(async () => {
    const group = open(scope, kind, branches, keys, at);
    const done: Settled[] = [];
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < branches.length) {
        const index = next++;
        done[index] = await group.run(index, branches[index] as Branch);
      }
    };
    // A failure of our own, a branch that could not be left, ends all of it.
    await Promise.all(Array.from({ length: Math.min(limit ?? branches.length, branches.length) }, worker));
    const failed = done.find((settled) => settled.failed);
    if (failed !== undefined) throw failed.value;
    return done.map((settled) => settled.value);
  });
}

/** The first branch to settle (race), or to succeed (any). */
export function first(scope: Scope, kind: "any" | "race", branches: readonly Branch[], at: string): Promise<unknown> {
  return droppable(async () => {
    const group = open(scope, kind, branches, undefined, at);
    if (group.winner !== undefined) return valueOf(await group.run(group.winner, branches[group.winner] as Branch));
    const running = branches.map((branch, index) => group.run(index, branch));
    const decided = await firstOf(running, kind);
    if (decided === undefined) return valueOf(await (running[0] as Promise<Settled>));
    const winner = await group.finish(decided.index);
    group.leaveLosers(winner);
    return valueOf(winner === decided.index ? decided : await (running[winner] as Promise<Settled>));
  });
}

/** Undefined: all have failed. */
function firstOf(running: readonly Promise<Settled>[], kind: "any" | "race"): Promise<Settled | undefined> {
  return new Promise((resolve, reject) => {
    let left = running.length;
    for (const branch of running) {
      branch.then((settled) => {
        left--;
        if (kind === "race" || !settled.failed) resolve(settled);
        else if (left === 0) resolve(undefined);
      }, reject);
    }
  });
}

function valueOf(settled: Settled): unknown {
  if (settled.failed) throw settled.value;
  return settled.value;
}
