/** Values and errors whose own code throws, and errors that are not what errors usually are: each is recorded or refused, and no run stays without an end. */

import assert from "node:assert/strict";
import { it } from "node:test";
import { runInNewContext } from "node:vm";
import { type EverstepError, type RunFailed, StepError, type Transaction, setLogger } from "everstep";
import { onEveryStore } from "./stage.js";

class Declared extends Error {
  constructor(
    readonly reason: unknown,
    readonly note?: string,
  ) {
    super("declared");
  }
}
class Unreadable extends Error {}
class Unbuildable extends Error {}

function altered(alter: (error: Error & Record<string, unknown>) => void): Error {
  const error = new Error("text") as Error & Record<string, unknown>;
  alter(error);
  return error;
}

function getter(target: object, name: string): object {
  return Object.defineProperty(target, name, {
    enumerable: true,
    get() {
      throw new Error("the getter threw");
    },
  });
}

const proxy = (target: object): object => new Proxy(target, { get: refuse, getPrototypeOf: refuse, ownKeys: refuse });
function refuse(): never {
  throw new TypeError("the proxy threw");
}

/** What is thrown, and what is recorded of it. */
const THROWN: Record<string, [make: () => unknown, type: string, message: RegExp]> = {
  undefined: [() => undefined, "undefined", /a thrown undefined/],
  frozen: [() => Object.freeze(new Error("frozen")), "Error", /^frozen$/],
  "no message": [() => altered((error) => Object.assign(error, { message: undefined })), "Error", /^$/],
  "an object as message": [() => altered((error) => Object.assign(error, { message: { secret: 1 } })), "Error", /^$/],
  "a number as message": [() => altered((error) => Object.assign(error, { message: 42 })), "Error", /^42$/],
  "a message that throws": [() => getter(new Error(), "message"), "Error", /cannot be read/],
  "call sites as stack": [() => altered((error) => (error["stack"] = [] as never)), "Error", /^text$/],
  "a stack that throws": [() => getter(new Error(), "stack"), "Error", /cannot be read/],
  "an object as name": [() => altered((error) => Object.assign(error, { name: {} })), "Error", /^text$/],
  "half a character as name": [() => altered((error) => (error.name = "\ud800\0")), "\ufffd ", /^text$/],
  // Recorded texts are cut to a length, and a cut may halve a character.
  "a message cut inside a character": [() => new Error(`${"x".repeat(999)}\u{1f600}`), "Error", /^x{999}/],
  "a long message cut inside a character": [() => new Error(`${"x".repeat(8191)}\u{1f600}`), "Error", /^x{8191}\ufffd$/],
  "a text cut inside a character": [() => `${"x".repeat(8191)}\u{1f600}`, "string", /^x{8191}\ufffd$/],
  "a name cut inside a character": [() => altered((error) => (error.name = `${"n".repeat(254)}\u{1f600}`)), `${"n".repeat(254)}\ufffd`, /^text$/],
  "a stack cut inside a character": [() => altered((error) => (error.stack = `Error\n    at \u{1f600}${"y".repeat(16 * 1024 - 1)}`)), "Error", /^text$/],
  "no constructor": [() => altered((error) => Object.assign(error, { constructor: null })), "Error", /^text$/],
  "a code that throws": [() => getter(new Error("text"), "code"), "Error", /^text$/],
  "a cause that throws": [() => getter(new Error(), "cause"), "Error", /cannot be read/],
  proxy: [() => proxy(new Error()), "Error", /cannot be read/],
  "another realm": [() => runInNewContext("new RangeError('far')"), "RangeError", /^far$/],
  "declared, a field throws": [() => getter(new Declared(1), "more"), "Declared", /^declared \(.*"declared".*the getter threw/],
  "declared, details throw": [() => new Unreadable("text"), "Unreadable", /^text \(.*details threw/],
  "declared, details throw what cannot be read": [() => new Unreadable("deeper"), "Unreadable", /^deeper \(.*its message cannot be read/],
  "declared, rebuild gives nothing": [() => new Unbuildable("text"), "Unbuildable", /^text \(.*"unbuildable" could not be rebuilt/],
};

onEveryStore("hostile", (stage) => {
  it("whatever is thrown, the step is recorded and the run ends", async () => {
    const app = stage.engine();
    app.error("declared", Declared);
    app.error("unreadable", Unreadable, { details: ({ message }) => { throw message === "deeper" ? (getter(new Error(), "message") as Error) : new Error("details threw"); }, rebuild: (message) => new Unreadable(message) });
    app.error("unbuildable", Unbuildable, { details: () => ({}), rebuild: () => undefined as never });
    const attempts: string[] = [];
    const fail = app.step("fail", async (kind: string): Promise<void> => {
      attempts.push(kind);
      throw THROWN[kind]?.[0]();
    });
    const caught = app.workflow("caught", async (kind: string) =>
      fail(kind).then(
        () => null,
        (error: EverstepError) => [error.code, error.errorType ?? null, error.message],
      ),
    );
    const move = app.transaction("move", async (_: Transaction, kind: string): Promise<void> => {
      attempts.push(`move ${kind}`);
      throw THROWN[kind]?.[0]();
    });
    const moved = app.workflow("moved", async (kind: string) => move(kind).then(() => null, (error: EverstepError) => [error.code, error.message]));
    const uncaught = app.workflow("uncaught", async (kind: string) => {
      throw THROWN[kind]?.[0]();
    });
    await app.launch();
    for (const [kind, [, type, message]] of Object.entries(THROWN)) {
      const run = await caught.start(kind);
      const [code, errorType, text] = (await run.result()) as unknown as string[];
      assert.equal(code, "step_failed", kind);
      assert.equal(errorType, type, kind);
      assert.match(String(text), message, kind);
      assert.equal((await run.steps()).length, 1, kind);
      assert.equal(attempts.filter((other) => other === kind).length, 1, kind);
      assert.deepEqual(await (await moved.start(kind)).result(), [code, text], kind);
      assert.equal(attempts.filter((other) => other === `move ${kind}`).length, 1, kind);
      for (const other of [await uncaught.start(kind), await fail.start(kind)]) await assert.rejects(other.result(), { code: "run_failed" }, kind);
    }
    await app.close();
  });

  it("a run whose end is refused fails with the reason, and holds nothing", async () => {
    const told: string[] = [];
    setLogger((level, message) => level === "error" && told.push(message));
    const app = stage.engine();
    const wf = app.workflow("wf", async (field: string) => {
      // Types forbid the number, JavaScript does not: a document that has no place in a frame.
      throw new StepError("text", { [field]: field === "errorType" ? 5 : "\ud800" });
    });
    await app.launch();
    for (const field of ["errorCode", "remoteStack", "details"]) await assert.rejects((await wf.start(field)).result(), { code: "run_failed", message: /text/ });
    assert.deepEqual(told, []);
    await assert.rejects((await wf.start("errorType")).result(), { code: "run_failed", message: /slice/ });
    assert.equal(app.info()["executing"], 0);
    assert.deepEqual([told.length, told.join().includes("it fails with the reason")], [1, true], told.join("\n"));
    setLogger();
    await app.close();
  });

  it("a declared error's fields that hold nothing are left out", async () => {
    const app = stage.engine();
    app.error("declared", Declared);
    const fail = app.step("fail", async (): Promise<void> => {
      throw new Declared("funds");
    });
    const wf = app.workflow("wf", async () => fail().then(() => null, (error: Declared) => [error instanceof Declared, error.message, error.reason]));
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(), [true, "declared", "funds"]);
    await app.close();
  });

  it("a retry policy that throws or answers later counts the error as final", async () => {
    const told: string[] = [];
    setLogger((_, message) => told.push(message));
    const app = stage.engine();
    const retry = { maxAttempts: 3, initial: { milliseconds: 1 } };
    const attempts: number[] = [];
    const step = app.step("step", async (_: unknown, { attempt }): Promise<void> => {
      attempts.push(attempt);
      throw new Error("failed");
    }, { retry: { ...retry, retryIf: refuse } });
    const wf = app.workflow("wf", async () => step().catch((error: Error) => error.message), {});
    const whole = app.workflow("whole", async () => { throw new Error("failed"); }, { retry: { ...retry, retryIf: (async () => true) as never } });
    await app.launch();
    assert.equal(await (await wf.start()).result(), "failed");
    assert.deepEqual(attempts, [1]);
    await assert.rejects((await whole.start()).result(), { code: "run_failed" });
    assert.ok(told.some((text) => text.includes("retryIf or nonRetryable threw")) && told.some((text) => text.includes("retryIf is asynchronous")), told.join("\n"));
    setLogger();
    await app.close();
  });

  it("a value whose own code throws is refused, at both ends, with its path", async () => {
    const app = stage.engine();
    const values: Record<string, [make: () => unknown, message: RegExp]> = {
      getter: [() => ({ a: [getter({}, "b")] }), /\(at \.a\[0\]\.b\)/],
      proxy: [() => ({ a: proxy({}) }), /\(at \.a\)/],
      "hidden toJSON": [() => Object.defineProperty({ a: 1 }, "toJSON", { value: () => "other" }), /toJSON/],
    };
    let calls = 0;
    const give = app.step("give", async (kind: string): Promise<unknown> => {
      calls++;
      return values[kind]?.[0]();
    });
    const wf = app.workflow("wf", async (kind: string) => give(kind).catch((error: EverstepError) => [error.code, error.message]));
    const out = app.workflow("out", async (kind: string): Promise<unknown> => values[kind]?.[0]());
    await app.launch();
    for (const [kind, [make, message]] of Object.entries(values)) {
      const run = await wf.start(kind);
      const [code, text] = (await run.result()) as string[];
      assert.equal(code, "payload_invalid", kind);
      assert.match(String(text), message);
      assert.equal((await run.steps()).length, 1, kind);
      await assert.rejects((await out.start(kind)).result(), (error: RunFailed) => (error.cause as EverstepError).code === "payload_invalid");
      await assert.rejects(wf.start(make() as string), { code: "payload_invalid" });
    }
    assert.equal(calls, 3);
    await app.close();
  });
});
