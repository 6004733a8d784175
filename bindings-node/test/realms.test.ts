/** The package inside a realm of its own, as Jest loads it: globals there are others than those of Node's modules and of the native part. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { it } from "node:test";
import { compileFunction, createContext, runInContext } from "node:vm";
import type * as Package from "everstep";

const outer = createRequire(__filename);

/** What jest-environment-node hands in; everything else is the realm's own. */
function realm(): { load: (file: string) => unknown; run: (text: string) => unknown } {
  const { Buffer, Uint8Array, ArrayBuffer, TextDecoder, TextEncoder, AbortController, AbortSignal, performance, process, console, setTimeout, setImmediate, structuredClone } = globalThis;
  const context = createContext({ Buffer, Uint8Array, ArrayBuffer, TextDecoder, TextEncoder, AbortController, AbortSignal, performance, process, console, setTimeout, setImmediate, structuredClone });
  const loaded = new Map<string, { exports: unknown }>();
  const load = (file: string): unknown => {
    const known = loaded.get(file);
    if (known !== undefined) return known.exports;
    const module_ = { exports: {} as unknown };
    loaded.set(file, module_);
    const inner = (name: string): unknown => (name.startsWith(".") ? load(resolve(dirname(file), name)) : outer(name));
    const compiled = compileFunction(readFileSync(file, "utf8"), ["exports", "require", "module", "__filename", "__dirname"], { parsingContext: context, filename: file });
    (compiled as (...args: unknown[]) => void)(module_.exports, inner, module_, file, dirname(file));
    return module_.exports;
  };
  return { load, run: (text) => runInContext(text, context) };
}

it("errors of the native part have their class, values come back as they are", async () => {
  const { load, run } = realm();
  const { Everstep, EverstepError, StepError } = load(outer.resolve("everstep")) as typeof Package;
  assert.notEqual(run("Error"), Error);
  const refused = new Everstep({ database: "mysql://root:hunter2@host/db" });
  await assert.rejects(refused.launch(), (error) => error instanceof EverstepError && error.code === "config_invalid");
  assert.throws(() => refused.info(), EverstepError);
  const app = new Everstep("sqlite::memory:");
  const give = app.step("give", async () => run("({ at: new Date(0), map: new Map([[1, new Set([2])]]), bytes: new Uint8Array([1, 2]), list: [1n, { a: null }] })"));
  const fail = app.step("fail", async () => {
    run("null.field");
  });
  const wf = app.workflow("wf", async () => [await give(), await fail().catch((error: unknown) => error instanceof StepError && error.errorType)]);
  await app.launch();
  const [value, type] = (await (await wf.start()).result()) as [Record<string, unknown>, unknown];
  assert.equal(type, "TypeError");
  assert.equal(Number(value["at"]), 0);
  assert.deepEqual([...(value["bytes"] as Uint8Array)], [1, 2]);
  assert.deepEqual([...(value["map"] as Map<number, Set<number>>)].map(([key, set]) => [key, [...set]]), [[1, [2]]]);
  assert.equal((value["list"] as unknown[])[0], 1n);
  await app.close();
});
