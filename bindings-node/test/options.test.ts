/** What an engine, one start, one call and one control call may be told: it holds, or it is refused by its name, with the code every language has for it. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Everstep, EverstepError, type Finished, type RunInfo, drizzleTx, knexTx, kyselyTx, pgTx, postgresTx, prismaTx } from "everstep";
import { onEveryStore, until } from "./stage.js";

const SOON = { timeout: { seconds: 20 } };
const BRIEF = { timeout: { milliseconds: 100 } };

function fails(code: string, message?: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof EverstepError, String(error));
    assert.equal(error.code, code, error.message);
    if (message !== undefined) assert.match(error.message, message);
    return true;
  };
}

describe("settings", () => {
  it("hold where no option of the same name was given, which wins", async () => {
    const settings = { lease_ms: 4_000, outage_budget_ms: 7_000, slots: 3, max_payload: 1_000 };
    const keys = Object.keys(settings);
    for (const [options, expected] of [
      [{ settings }, [4_000, 7_000, 3, 1_000]],
      [{ settings, lease: { seconds: 5 }, outageBudget: { seconds: 6 }, slots: 2, maxPayload: 2_000 }, [5_000, 6_000, 2, 2_000]],
    ] as const) {
      const app = new Everstep({ database: "sqlite::memory:", ...options });
      const info = app.info();
      assert.deepEqual(keys.map((key) => info[key]), expected);
      await app.close();
    }
  });
});

describe("what an engine cannot be configured with", () => {
  it("is named, and never the default instead", () => {
    const nothing = Number(undefined);
    for (const [options, message] of [
      [{ slots: nothing }, /^slots is a finite number/],
      [{ maxPayload: Infinity }, /^maxPayload is a finite number/],
      [{ settings: { lanes: nothing } }, /^settings\.lanes is a finite number/],
      [{ settings: { max_parked: Infinity } }, /^settings\.max_parked is a finite number/],
      [{ settings: { pool: () => 4 } }, /^settings\.pool is .* not a function/],
      [{ version: Symbol("v1") }, /^version is .* not a symbol/],
      [{ slots: 5n }, /^slots is .* not a bigint/],
    ] as const) {
      const app = new Everstep({ database: "sqlite::memory:", ...(options as object) });
      assert.throws(() => app.info(), fails("config_invalid", message));
    }
  });

  it("is named as the program wrote it", () => {
    for (const [options, option, key] of [
      [{ lease: {} }, "lease", "lease_ms"],
      [{ outageBudget: { seconds: -5 } }, "outageBudget", "outage_budget_ms"],
      [{ maxPayload: "many" }, "maxPayload", "max_payload"],
      [{ autoMigrate: "yes" }, "autoMigrate", "auto_migrate"],
    ] as const) {
      const message = (written: object): string => {
        const app = new Everstep({ database: "sqlite::memory:", ...written });
        try {
          app.info();
        } catch (error) {
          assert.ok(fails("config_invalid")(error));
          return (error as Error).message;
        }
        return "";
      };
      assert.match(message(options), new RegExp(`\\b${option}\\b`));
      assert.ok(!message(options).includes(key));
      // The same key among the settings is named as that.
      const [value] = Object.values(options) as unknown[];
      assert.match(message({ settings: { [key]: typeof value === "string" ? value : -5 } }), new RegExp(`\\b${key}\\b`));
    }
  });
});

describe("declarations", () => {
  it("onFinish names what can be started", () => {
    const app = new Everstep();
    const report = app.step("report", async () => 1);
    const rows = app.transaction("rows", async () => 1);
    let number = 0;
    const declare = (onFinish: unknown): unknown => app.workflow(`w${String(++number)}`, async () => 1, { onFinish } as any);
    for (const onFinish of [undefined, "report", report, app.workflow("other", async () => 1), app.reference("elsewhere")]) declare(onFinish);
    for (const onFinish of [null, 5, {}, [], { nam: "report" }, { name: "report" }, async () => 1, rows]) assert.throws(() => declare(onFinish), fails("config_invalid", /onFinish.*declare the function first/));
  });

  it("versions, labels and names are texts, and a message says of what", () => {
    const app = new Everstep();
    assert.throws(() => app.workflow("w", async () => 1, { version: 2 } as any), fails("config_invalid", /workflow "w": version is a text/));
    assert.throws(() => app.workflow("w", async () => 1, { label: {} } as any), fails("config_invalid", /workflow "w": label is a text/));
    // To a caller without types null is what was not said.
    assert.equal(app.workflow("unsaid", async () => 1, { version: null, label: null } as any).name, "unsaid");
    for (const name of [undefined, null, 5]) assert.throws(() => app.reference(name as any), fails("id_invalid", /name of a workflow is a text/));
  });

  it("an isolation level is known where a source is made", () => {
    const given = (level: unknown): any => ({ isolation: level, isolationLevel: level });
    for (const [source, level] of [
      [(level: unknown) => pgTx({} as any, { isolation: level } as any), "serializable"],
      [(level: unknown) => postgresTx({} as any, { isolation: level } as any), "serializable"],
      [(level: unknown) => kyselyTx({} as any, { isolation: level } as any), "repeatable read"],
      [(level: unknown) => drizzleTx({} as any, (() => 1) as any, given(level)), "read committed"],
      [(level: unknown) => knexTx({} as any, given(level)), "serializable"],
      [(level: unknown) => prismaTx({} as any, given(level)), "Serializable"],
    ] as const) {
      // PostgreSQL takes the weakest as the next one.
      for (const good of [level, undefined, null, level === "Serializable" ? "ReadUncommitted" : "read uncommitted"]) source(good);
      for (const bad of ["serialisable", 5, true]) assert.throws(() => source(bad), fails("config_invalid", /^isolation(Level)? is "/), String(bad));
    }
    for (const make of [pgTx, postgresTx, kyselyTx] as any[]) assert.throws(() => make({}, { isolationLevel: "serializable" } as any), fails("config_invalid", /no such option: isolationLevel/));
  });

  it("a transaction is never half done, so at most once has no meaning for it", () => {
    const app = new Everstep();
    assert.throws(() => app.transaction("t", async () => 1, { atMostOnce: true } as any), fails("config_invalid", /atMostOnce/));
    assert.throws(() => app.transaction("t", async () => 1, { retries: 1 } as any), fails("config_invalid", /no such option: retries/));
  });

  it("codes of errors follow the rule of every name", () => {
    const app = new Everstep();
    for (const code of ["", "x".repeat(256), "é".repeat(128), "a\nb", "\u0085", "\ud800"]) assert.throws(() => { app.error(code, class extends Error {}); }, fails("id_invalid"), JSON.stringify(code));
    assert.throws(() => { app.error(5 as any, class extends Error {}); }, fails("config_invalid"));
    app.error("é".repeat(127), class extends Error {});
  });
});

onEveryStore("options", (stage) => {
  it("of a start", async () => {
    const app = stage.engine();
    const double = app.step("double", async (n: number) => 2 * n);
    const work = app.workflow("work", async (n: number) => double.options({ retry: { retryIf: () => false } })(n));
    await app.launch();
    for (const retry of [{ nonRetryable: [TypeError] }, { retryIf: () => true }]) {
      await assert.rejects(work.start(1, { retry }), fails("config_invalid", /not for a start/));
      await assert.rejects(double.start(1, { retry }), fails("config_invalid", /not for a start/));
      await assert.rejects(work.startMany([1], { retry }), fails("config_invalid", /not for a start/));
      await assert.rejects(app.reference("work").start(1, { retry }), fails("config_invalid", /not for a start/));
    }
    for (const value of [{ nested: 1 }, [1], null, undefined, NaN, () => 1, "\ud800"]) {
      await assert.rejects(work.start(1, { attributes: { region: value } as any }), fails("payload_invalid", /attribute "region"/));
      await assert.rejects(app.runs({ attribute: ["region", value as any] }), fails("payload_invalid", /attribute "region"/));
    }
    for (const id of [undefined, null, 5]) await assert.rejects(work.startMany([1], { id: () => id as any }), fails("id_invalid", /id of a run/));
    await assert.rejects(work.startMany([1], { id: "one" as any }), fails("config_invalid", /function/));
    for (const attributes of [new Map([["region", "eu"]]), new Set(["region"]), [["region", "eu"]], new Date(), new (class { region = "eu"; })()]) {
      await assert.rejects(work.start(1, { attributes: attributes as any }), fails("config_invalid", /attributes is a plain object/));
    }
    // What is ignored here would list every run.
    for (const name of [undefined, null, 5]) await assert.rejects(app.runs({ attribute: [name as any, "x"] }), fails("config_invalid", /name of an attribute/));
    for (const [dedup, message] of [[{ key: "k", scope: 3600 }, /dedup\.scope takes a duration such as { seconds: 3600 }/], [{ key: "k", scope: null }, /dedup\.scope/], [{ key: "k", policy: 5 }, /dedup\.policy is a text/]] as const) {
      await assert.rejects(work.start(1, { dedup: dedup as any }), fails("config_invalid", message));
    }
    for (const onFinish of [async () => 1, { name: "work" }, null]) await assert.rejects(work.start(1, { onFinish: onFinish as any }), fails("config_invalid", /onFinish/));
    assert.deepEqual((await app.runs()).items, []);
    const runs = await work.startMany([1, 2], { id: (n) => `item-${String(n)}` });
    assert.deepEqual(runs.map((run) => run.id), ["item-1", "item-2"]);
    assert.equal(await runs[1]?.result(SOON), 4);
    await app.close();
  });

  it("of a start are laid over what the step was declared with", async () => {
    const app = stage.engine();
    const attempts = new Map<string, number>();
    const hangs = app.step(
      "hangs",
      async (name: string, step): Promise<string> => {
        attempts.set(name, step.attempt);
        return new Promise((_, reject) => {
          step.signal.addEventListener("abort", () => {
            reject(step.signal.reason as Error);
          });
        });
      },
      { retry: { maxAttempts: 2, initial: { milliseconds: 1 } }, timeout: { milliseconds: 50 } },
    );
    await app.launch();
    // Its timeout stays, or this would hang; so do its attempts.
    for (const [name, options] of [["retry", { retry: { maxAttempts: 3 } }], ["timeout", { timeout: { milliseconds: 20 } }]] as const) {
      await assert.rejects((await hangs.start(name, options)).result(SOON), (error: EverstepError) => error.code === "run_failed" && (error.cause as EverstepError).code === "step_timeout");
    }
    assert.deepEqual(Object.fromEntries(attempts), { retry: 3, timeout: 2 });
    await app.close();
  });

  it("onFinish starts a declared step as a job", async () => {
    const app = stage.engine();
    const report = app.step("report", async (of: Finished) => `${of.workflow} ${of.state} ${String(of.value)}`);
    const declared = app.workflow("declared", async () => 1, { onFinish: report });
    const plain = app.workflow("plain", async () => 2);
    await app.launch();
    await (await declared.start()).result(SOON);
    await (await plain.start(undefined, { onFinish: report })).result(SOON);
    const jobs = async (): Promise<RunInfo[]> => (await app.runs({ workflow: "report" })).items;
    await until(async () => (await jobs()).length === 2, "both jobs");
    const said = await Promise.all((await jobs()).map((job) => app.run({ key: job.key }).result(SOON)));
    assert.deepEqual(said.sort(), ["declared succeeded 1", "plain succeeded 2"]);
    await app.close();
  });

  it("of one call", async () => {
    const app = stage.engine();
    const attempts = new Map<string, number>();
    const flaky = app.step(
      "flaky",
      async (name: string, step): Promise<number> => {
        attempts.set(name, step.attempt);
        throw new TypeError(name);
      },
      { retry: { maxAttempts: 2, initial: { milliseconds: 1 } } },
    );
    const slow = app.step("slow", async (_: number, step): Promise<string> => new Promise((_resolve, reject) => { step.signal.addEventListener("abort", () => { reject(step.signal.reason as Error); }); }), { retry: { maxAttempts: 2, initial: { milliseconds: 1 } } });
    const work = app.workflow("work", async () => {
      const out: string[] = [];
      const code = async (call: () => Promise<unknown>): Promise<void> => {
        await call().catch((error: EverstepError) => out.push(error.code));
      };
      await code(() => flaky("declared"));
      // What it names is laid over the declaration: the first wait stays a millisecond.
      await code(() => flaky.options({ retry: { maxAttempts: 4 } })("more"));
      // What is undefined was not named.
      await code(() => flaky.options({ retry: { maxAttempts: undefined, factor: 1 }, timeout: undefined, key: undefined })("unsaid"));
      await code(() => flaky.options({ retry: { nonRetryable: [TypeError] } })("final"));
      await code(() => slow.options({ timeout: { milliseconds: 20 } })(1));
      for (const options of [{ retries: 1 }, { key: 5 }, { id: "x" }, { retry: 3 }, { retry: { maxAttempts: 0 } }, { timeout: 5 }, null]) await code(async () => flaky.options(options as any)("never"));
      return out;
    });
    await app.launch();
    const out = await (await work.start()).result(SOON);
    assert.deepEqual(out, ["step_failed", "step_failed", "step_failed", "step_failed", "step_timeout", ...Array.from({ length: 7 }, () => "config_invalid")]);
    assert.deepEqual(Object.fromEntries(attempts), { declared: 2, more: 4, unsaid: 2, final: 1 });
    await app.close();
  });

  it("of waits and control calls", async () => {
    const app = stage.engine();
    const waits = app.workflow("waits", async (_: undefined, ctx) => {
      const out: unknown[] = [];
      for (const call of [
        async () => ctx.receive("topic", { timout: { seconds: 1 } } as any),
        async () => ctx.getEvent("waits", "key", { timout: { seconds: 1 } } as any),
        async () => ctx.send("waits", "topic", 1, { key: "x" } as any),
        async () => ctx.send("waits", "topic", 1, { idempotencyKey: 5 } as any),
        async () => ctx.runStep("step", async () => 1, { key: 5 } as any),
        async () => ctx.patch(5 as any),
        async () => ctx.receive(5 as any),
        async () => ctx.setEvent(5 as any, 1),
      ]) {
        await call().catch((error: EverstepError) => out.push(error.code));
      }
      await ctx.receive("never");
      return out;
    });
    await app.launch();
    const run = await waits.start(undefined, { id: "waits" });
    const misspelt = { timout: { seconds: 1 } } as any;
    for (const [what, call] of Object.entries<() => Promise<unknown>>({
      result: () => run.result(misspelt),
      getEvent: () => run.getEvent("key", misspelt),
      "getEvent ": () => app.getEvent("waits", "key", misspelt),
      send: () => run.send("topic", 1, misspelt),
      "send ": () => app.send("waits", "topic", 1, misspelt),
      idempotencyKey: () => run.send("topic", 1, { idempotencyKey: 5 } as any),
      cancel: () => run.cancel({ reason: "x" } as any),
      "cancel ": () => run.cancel("because" as any),
      by: () => run.cancel({ by: 5 } as any),
      why: () => run.cancel({ why: 5 } as any),
      resume: () => run.resume({ why: "x" } as any),
      retry: () => run.retry({ why: "x" } as any),
      rewind: () => run.rewind(1, { from: "x" } as any),
      seq: () => run.rewind("1" as any),
      branch: () => run.rewind(1, { branch: 5 } as any),
      close: () => app.close({ deadline: { seconds: 1 } } as any),
      serve: () => app.serve({ deadline: { seconds: 1 } } as any),
    })) await assert.rejects(call(), fails("config_invalid", new RegExp(what.trim())), what);
    for (const [topic, key] of [[5, "x"], ["x", 5]] as any[]) {
      await assert.rejects(topic === 5 ? run.send(topic, 1) : run.getEvent(key), fails("id_invalid", /is a text/));
    }
    assert.throws(() => app.keyOf(5 as any), fails("id_invalid"));
    assert.equal((await run.status()).state.length > 0, true);
    await run.send("never", 1);
    assert.deepEqual(await run.result(SOON), ["config_invalid", "config_invalid", "config_invalid", "config_invalid", "config_invalid", "id_invalid", "id_invalid", "id_invalid"]);
    await app.close();
  });

  it("errors name the run they are about", async () => {
    const app = stage.engine();
    const waits = app.workflow("waits", async (_: undefined, ctx) => ctx.receive("never"));
    const parent = app.workflow("parent", async () => {
      const seen: unknown[] = [];
      for (const run of [await waits.start(undefined, { id: "child" }), app.run("nobody")]) {
        await run.result(BRIEF).catch((error: EverstepError) => seen.push([error.code, error.run === run.key]));
      }
      return seen;
    });
    await app.launch();
    const run = await waits.start(undefined, { id: "waits" });
    await assert.rejects(run.result(BRIEF), (error: EverstepError) => error.code === "result_timeout" && error.run === run.key);
    const nobody = app.run("nobody");
    for (const call of [() => nobody.status(), () => nobody.steps(), () => nobody.result(), () => nobody.cancel(), () => nobody.send("x", 1), () => app.send("nobody", "x", 1), () => app.getEvent("nobody", "x")]) {
      await assert.rejects(call(), (error: EverstepError) => error.code === "run_not_found" && error.run === nobody.key && error.message.includes("nobody"));
    }
    assert.deepEqual(await (await parent.start()).result(SOON), [["result_timeout", true], ["run_not_found", true]]);
    await app.close();
  });

  it("what a run knows about itself, in a job too", async () => {
    const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const app = stage.engine();
    const inside = app.step("inside", async (_: undefined, step) => [step.run ?? null, step.runId ?? null, step.runAttempt, step.attributes, step.traceParent ?? null]);
    const work = app.workflow(
      "work",
      async (_: undefined, ctx) => {
        if (ctx.attempt === 1) throw new Error("once more");
        return [[ctx.run, ctx.runId ?? null, ctx.attempt, ctx.attributes, ctx.traceParent ?? null], await inside()];
      },
      { retry: { maxAttempts: 2, initial: { milliseconds: 1 } } },
    );
    await app.launch();
    const run = await work.start(undefined, { id: "known", attributes: { region: "eu", n: 1 }, traceParent });
    const expected = [run.key, "known", 2, { region: "eu", n: 1 }, traceParent];
    assert.deepEqual(await run.result(SOON), [expected, expected]);
    const job = await inside.start(undefined, { attributes: { n: 2 } });
    assert.deepEqual(await job.result(SOON), [job.key, null, 1, { n: 2 }, null]);
    const info: RunInfo = await job.status();
    assert.equal(info.key, job.key);
    await app.close();
  });
});
