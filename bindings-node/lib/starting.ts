/** Starting runs: what workflows, steps as jobs, and workflows known by name have in common. */

import { decode, encode } from "./codec.js";
import { droppable, recorded } from "./calls.js";
import type { Engine } from "./engine.js";
import { ConfigInvalid, OutsideRun } from "./errors_gen.js";
import { errorOf } from "./failures.js";
import { type Read, Text, type Value } from "./frame.js";
import { OP_BEGIN_CHILD, OP_START, OP_START_MANY } from "./ops_gen.js";
import { type StartOptions, listed, name as checkName, runRecord } from "./options.js";
import type { Registered } from "./registered.js";
import { Run } from "./run.js";
import { type Scope, location, scopeOf } from "./scope.js";

/** What is started: a function of this program, or one known by name only. */
export interface Target {
  readonly engine: Engine;
  readonly name: string;
  readonly registered: Registered | undefined;
}

function encodeInput(target: Target, input: unknown): Text | null {
  if (target.registered !== undefined) return target.registered.encodeInput(input);
  return input === undefined ? null : new Text(encode(input));
}

/** Inside a workflow the start is recorded and the run is a child. `below`: whose caller's place is recorded then. */
export function start<O>(target: Target, input: unknown, options: StartOptions, below: (...args: never[]) => unknown, given?: Scope): Promise<Run<O>> {
  return droppable(() => startOne<O>(target, input, options, below, given));
}

async function startOne<O>(target: Target, input: unknown, options: StartOptions, below: (...args: never[]) => unknown, given?: Scope): Promise<Run<O>> {
  const { engine, name, registered } = target;
  const scope = given ?? scopeOf(engine, JSON.stringify(name));
  const wire = encodeInput(target, input);
  if (scope !== undefined) {
    const at = location(below);
    const key = await recorded(scope, OP_BEGIN_CHILD, () => [at, name, wire, runRecord(options), options.parentClose], (value) => String(decode(value ?? new Uint8Array())));
    return new Run<O>(engine, key, registered, options.id);
  }
  const [key, attached] = await engine.request(OP_START, [name, wire, runRecord(options)]);
  return new Run<O>(engine, String(key), registered, options.id, attached === true);
}

/** One round trip for many runs. Throws for the first item that was refused; the others stand, and ids make a second call attach to them. */
export async function startMany<O>(target: Target, inputs: Iterable<unknown>, options: StartOptions, id: ((input: never) => string) | undefined): Promise<Run<O>[]> {
  const { engine, name, registered } = target;
  if (scopeOf(engine, JSON.stringify(name)) !== undefined) {
    throw new OutsideRun("startMany inside a workflow is not recorded, and every replay would start the runs again: call start for each, or do it in a step");
  }
  if (id !== undefined && typeof id !== "function") throw new ConfigInvalid("startMany takes as id a function, which names the run of each input");
  const plain = runRecord(options);
  const ids: (string | undefined)[] = [];
  const items: Value[] = [];
  for (const input of listed(inputs, "what startMany takes")) {
    const own = id === undefined ? undefined : checkName(id(input as never), "the id of a run");
    ids.push(own);
    items.push([encodeInput(target, input), own === undefined ? plain : runRecord({ ...options, id: own })]);
  }
  const [answers] = await engine.request(OP_START_MANY, [name, items]);
  return (answers as Read[][]).map(([key, attached, code, message], index) => {
    if (typeof code === "string") throw errorOf(code, `item ${String(index)}: ${String(message)}`);
    return new Run<O>(engine, String(key), registered, ids[index], attached === true);
  });
}
