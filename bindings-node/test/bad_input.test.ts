/** Bad input gets a typed error with a stable code that says what to do, and never shows a payload or a password. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { arktype, valibot, zod } from "./schemas.js";
import { Everstep, EverstepError, type EverstepOptions, type WorkflowContext, setLogger } from "everstep";
import { onEveryStore, until } from "./stage.js";

 
function fails(code: string, message?: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof EverstepError, String(error));
    assert.equal(error.code, code, error.message);
    if (message !== undefined) assert.match(error.message, message);
    return true;
  };
}

onEveryStore("bad input", (stage) => {
  it("many starts belong in a step", async () => {
    const app = stage.engine();
    const one = app.workflow("one", async (n: number) => n);
    const inside = app.step("inside", async () => (await Promise.all((await one.startMany([1, 2])).map((run) => run.result()))).length);
    const many = app.workflow("many", async () => {
      await assert.rejects(one.startMany([1, 2]), fails("outside_run", /not recorded/));
      return await inside();
    });
    await app.launch();
    assert.equal(await (await many.start()).result({ timeout: { seconds: 20 } }), 2);
  });

  it("ids, names, queues, options", async () => {
    const app = stage.engine();
    const wf = app.workflow("checkout", async (n: number) => n);
    app.workflow("other", async () => 1);
    app.queue("orders");
    await app.launch();
    for (const id of ["", "a\u0000b", "x".repeat(256), "line\nbreak"]) await assert.rejects(wf.start(1, { id }), fails("id_invalid"));
    await assert.rejects(wf.start(1, { id: "\ud800" }), fails("id_invalid", /lone surrogate/));
    assert.equal(await (await wf.start(1, { id: "é".repeat(127) })).result(), 1);
    await assert.rejects(wf.start(1, { queue: "order" }), fails("unknown_queue", /orders/));
    await assert.rejects(app.pauseQueue("order"), fails("unknown_queue", /Did you mean "orders"/));
    await assert.rejects(wf.start(1, { ID: "a" } as any), fails("config_invalid", /no such option: ID/));
    for (const options of [{ id: 5 }, { queue: {} }, { version: 5 }, { dedup: "k" }, { dedup: {} }, { dedup: { key: "k", scop: "queued" } }, { retry: 3 }, { retry: { attempts: 3 } }, { attributes: null }, null, 5]) {
      await assert.rejects(wf.start(1, options as any), fails("config_invalid"), JSON.stringify(options));
    }
    await assert.rejects(wf.start(1, { startAt: new Date(8.64e15) }), fails("config_invalid", /too far/));
    await assert.rejects(app.runs({ state: "failed" } as any), fails("config_invalid", /no such option: state/));
    await assert.rejects(app.putQueue("q", { limt: 1 } as any), fails("config_invalid", /no such option: limt/));
    // What is of the wrong kind is refused here, with its name, and never ignored: a filter that is would list every run.
    for (const options of [{ paused: "no" }, { hold: 1 }, { limit: "3" }, { keyLimit: null }]) await assert.rejects(app.putQueue("q", options as any), fails("config_invalid", /queue "q"/));
    for (const filter of [{ parent: "one" }, { parent: {} }, { attribute: "region" }, { attribute: ["region"] }, { workflow: 5 }, { queue: {} }, { states: 5 }, { states: [5] }, { after: 5 }]) {
      await assert.rejects(app.runs(filter as any), fails("config_invalid"), JSON.stringify(filter));
    }
    for (const options of [{ parentClose: "orphan" }, { reusePurged: "yes" }, { retry: { jitter: "no" } }]) await assert.rejects(wf.start(1, options as any), fails("config_invalid"), JSON.stringify(options));
    for (const inputs of [5, null, "abc"]) await assert.rejects(wf.startMany(inputs as any), fails("config_invalid", /startMany/));
    for (const id of [5, null, undefined, {}]) assert.throws(() => app.run(id as any), fails("id_invalid"));
    await assert.rejects(app.send("one", 5 as any, 1), fails("id_invalid", /topic is a text/));
    await wf.start(1, { id: "one" });
    await assert.rejects(app.reference("other").start(1, { id: "one" }), fails("id_conflict"));
    await assert.rejects(app.reference("chekout").start(1), fails("unknown_workflow", /checkout/));
    assert.equal((await (await app.reference("chekout").start(1, { unchecked: true })).status()).state, "ready");
    await assert.rejects(app.run("nobody").status(), fails("run_not_found"));
    await app.close();
  });

  it("values that have no form", async () => {
    const app = stage.engine({ maxPayload: 10_000 });
    const give = app.step("give", async (kind: string): Promise<unknown> => {
      const cyclic: any = {};
      cyclic.self = cyclic;
      return { undefined: { a: undefined }, function: () => 1, symbol: Symbol("secret"), cycle: cyclic, promise: { later: Promise.resolve(1) }, date: new Date(NaN), large: "x".repeat(20_000) }[kind];
    });
    const wf = app.workflow("wf", async (kind: string) => give(kind).catch((error: EverstepError) => [error.code, error.message]));
    const out = app.workflow("out", async (): Promise<unknown> => ({ price: () => 1 }));
    await app.launch();
    for (const kind of ["undefined", "function", "symbol", "cycle", "promise", "date", "large"]) {
      const result = (await (await wf.start(kind)).result()) as string[] | undefined;
      // The value of the kind "undefined" itself is a result that is left out; inside an object it is refused.
      assert.equal(result?.[0], kind === "large" ? "payload_too_large" : "payload_invalid", `${kind}: ${String(result)}`);
      assert.ok(!String(result?.[1]).includes("secret"));
    }
    await assert.rejects((await out.start()).result(), (error: any) => error.code === "run_failed" && error.cause.code === "payload_invalid" && /\.price/.test(error.message));
    await assert.rejects(wf.start((() => 1) as any), fails("payload_invalid", /input of workflow "wf"/));
    await assert.rejects(wf.start("x".repeat(20_000)), fails("payload_too_large"));
    await app.close();
  });

  it("verbs where they do not belong", async () => {
    const app = stage.engine();
    const inner = app.step("inner", async () => app.sleep({ seconds: 1 }));
    const twice = app.step("twice", async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return 1;
    });
    const wf = app.workflow("wf", async (_: number, ctx) => {
      const out: string[] = [];
      const code = async (call: () => Promise<unknown>): Promise<void> => {
        await call().then(
          () => out.push("fine"),
          (error: EverstepError) => out.push(error.code, error.message),
        );
      };
      await code(() => inner());
      await code(() => Promise.all([twice(), twice()]));
      await code(() => Promise.all([twice.options({ key: "a" })(), twice.options({ key: "b" })()]));
      await code(async () => ctx.all([twice.options({ key: "c" })()] as any));
      await code(async () => ctx.race([]));
      await code(async () => ctx.sleep(5 as any));
      await code(async () => ctx.sleep({ second: 5 } as any));
      await code(async () => ctx.sleep({ seconds: NaN }));
      await code(async () => ctx.map([1, 2], (n) => n, { key: () => "same" }));
      await code(async () => ctx.map(5 as any, (n) => n));
      await code(async () => app.idempotencyKey());
      return out;
    });
    await app.launch();
    const out = await (await wf.start(1)).result();
    const codes = out.filter((text) => /^[a-z_]+$/.test(text));
    assert.deepEqual(codes, [
      "outside_run",
      "ambiguous_step",
      "fine",
      "config_invalid",
      "config_invalid",
      "config_invalid",
      "config_invalid",
      "config_invalid",
      "config_invalid",
      "config_invalid",
      "outside_step",
    ]);
    assert.ok(out.some((text) => text.includes("write all([() => step(x)]) instead of all([step(x)])")));
    assert.ok(out.some((text) => text.includes("{ seconds: 5 }")));
    assert.throws(() => app.sleep({ seconds: 1 }), fails("outside_run"));
    assert.throws(() => app.idempotencyKey(), fails("outside_step"));
    await app.close();
  });

  it("the context of another run", async () => {
    const app = stage.engine();
    // What goes wrong in practice: a service that keeps the context of whichever run came last.
    const service: { context?: WorkflowContext } = {};
    const keeps = app.workflow("keeps", async (_: number, ctx) => {
      service.context = ctx;
      await ctx.receive("go");
      return ctx.runStep("mine", () => "mine");
    });
    const step = app.step("step", async () => service.context?.uuid());
    const uses = app.workflow("uses", async () => {
      const own = app.context();
      const theirs = async (): Promise<unknown> => service.context?.runStep("theirs", () => 1);
      return [await theirs().catch((error: EverstepError) => error.code), await step().catch((error: EverstepError) => error.message), await own.runStep("own", () => "own")];
    });
    await app.launch();
    const first = await keeps.start(1);
    await until(() => service.context !== undefined, "the first run");
    const [theirs, inStep, own] = (await (await uses.start()).result());
    assert.equal(theirs, "outside_run");
    assert.match(String(inStep), new RegExp(`context of run ${first.key}`));
    assert.equal(own, "own");
    await first.send("go", 1);
    assert.equal(await first.result(), "mine");
    assert.deepEqual((await first.steps()).map(({ name }) => name), ["go", "mine"]);
    await app.close();
  });

  it("an exception that is not an Error, a floating promise, a step not awaited", async () => {
    const app = stage.engine();
    const said: string[] = [];
    setLogger((level, message) => void (level === "warn" && said.push(message)));
    const work = app.step("work", async (n: number) => n);
    const slow = app.step("slow", async (_: number, step) => {
      await new Promise((_resolve, reject) => {
        step.signal.addEventListener("abort", () => {
          reject(step.signal.reason as Error);
        });
      });
    });
    const thrown = app.workflow("thrown", async () => {
      // eslint-disable-next-line @typescript-eslint/only-throw-error -- That is the test.
      throw "plain text";
    });
    let late: (() => void) | undefined;
    let floated = false;
    const floating = app.workflow("floating", async () => {
      void new Promise<void>((resolve) => (late = resolve)).then(async () => {
        floated = true;
        await work(99);
        throw new Error("never comes here");
      });
      return work(1);
    });
    const unawaited = app.workflow("unawaited", async () => {
      slow(1).catch(() => undefined);
      return "done";
    });
    await app.launch();
    await assert.rejects((await thrown.start()).result(), (error: any) => error.code === "run_failed" && error.cause.errorType === "string" && error.message.includes("plain text"));
    assert.equal(await (await floating.start()).result(), 1);
    late?.();
    await until(() => floated, "the floating promise");
    assert.equal(await (await unawaited.start()).result(), "done");
    await until(() => said.some((text) => text.includes("still running: await it")), "the warning");
    await app.close();
    setLogger();
  });

  it("functions declared twice, late, without a name; launched twice; used after close", async () => {
    const app = stage.engine();
    const wf = app.workflow("wf", async () => 1);
    assert.throws(() => app.workflow("wf", async () => 2), fails("already_registered", /bad_input.*declared at .*bad_input/));
    assert.throws(() => app.step("", async () => 1), fails("id_invalid"));
    assert.throws(() => app.step((async () => 1) as any, "name" as any), fails("config_invalid", /takes a name first/));
    assert.throws(() => app.step("a", async () => 1, { retries: 3 } as any), fails("config_invalid", /no such option: retries/));
    assert.throws(() => app.step("a", async () => 1, { retry: { maxAttempts: 0 } }), fails("config_invalid"));
    assert.throws(() => app.step("a", async () => 1, { input: {} } as any), fails("config_invalid", /Standard Schema/));
    assert.throws(() => { app.error("run_failed", RangeError); }, fails("already_registered"));
    assert.throws(() => { app.error("x", (() => 1) as any); }, fails("config_invalid"));
    assert.throws(() => app.transaction("t", {} as any, async () => 1), fails("config_invalid", /pgTx/));
    await app.launch();
    await assert.rejects(app.launch(), fails("already_launched"));
    assert.throws(() => app.workflow("late", async () => 1), fails("registered_late"));
    assert.throws(() => app.queue("late"), fails("registered_late"));
    await app.close();
    await app.close();
    await assert.rejects(wf.start(), fails("closed"));
    assert.throws(() => app.info(), fails("closed"));
    await assert.rejects(app.launch(), EverstepError);
    for (const declare of [() => app.step("after", async () => 1), () => app.queue("after")]) assert.throws(declare, fails("closed"));
  });

  it("strict: a step outside a workflow", async () => {
    const app = stage.engine({ strict: true });
    const step = app.step("step", async () => 1);
    await assert.rejects(step(), fails("outside_run"));
    const loose = stage.engine().step("step", async (n: number, context) => [n, context.attempt]);
    assert.deepEqual(await loose(7), [7, 1]);
  });

  it("schemas validate at both ends", async () => {
    for (const [vendor, { order, receipt }] of Object.entries({ zod, valibot, arktype })) {
      const app = stage.engine();
      const wf = app.workflow(`wf-${vendor}`, async (input: any) => ({ total: input.count * 2 }), { input: order, output: receipt }) as any;
      const bad = app.workflow(`bad-${vendor}`, async () => ({ total: "many" }), { output: receipt } as any) as any;
      await app.launch();
      assert.deepEqual(await (await wf.start({ item: "pen", count: 2 })).result(), { total: 4 });
      await assert.rejects(wf.start({ item: "pen", count: "two" }), fails("payload_invalid", /count/));
      await assert.rejects((await app.reference(`wf-${vendor}`).start({ item: "pen", count: 1 })).result().then((value: any) => { assert.deepEqual(value, { total: 1 }); }), assert.AssertionError);
      await assert.rejects((await bad.start()).result(), (error: any) => error.cause.code === "payload_invalid" && error.message.includes("total"));
      await app.close();
    }
  });

  it("changed code never gets another call's result", async () => {
    const url = stage.store === "postgres" ? stage.url : `sqlite:${stage.folder}/changed.db`;
    const build = (version: string, order: readonly string[]): [Everstep, any] => {
      const app = stage.engine({ database: url, schema: "changed", version });
      const steps = new Map(["a", "b"].map((name) => [name, app.step(name, async (n: number) => `${name}${n}`)]));
      const wf = app.workflow("wf", async (_: number, ctx) => {
        const out = [await steps.get(order[0] as string)?.(1)];
        await ctx.receive("go");
        return [...out, await steps.get(order[1] as string)?.(2)];
      });
      return [app, wf];
    };
    const [one, wf] = build("v1", ["a", "b"]);
    await one.launch();
    const run = await wf.start(1, { id: "changed" });
    await until(async () => (await run.status()).stepsRecorded >= 1, "the first step");
    await one.close();
    const [two] = build("v2", ["b", "a"]);
    setLogger(() => undefined);
    await two.launch();
    await two.send("changed", "go", 1);
    await assert.rejects(two.run("changed").result({ timeout: { seconds: 20 } }), fails("run_blocked", /"a".*"b"|"b".*"a"/s));
    await two.close();
    setLogger();
    const [three] = build("v1", ["a", "b"]);
    await three.launch();
    await three.run("changed").resume();
    assert.deepEqual(await three.run("changed").result({ timeout: { seconds: 20 } }), ["a1", "b2"]);
    await three.close();
  });
});

describe("configuration", () => {
  const launched = async (options: EverstepOptions | string): Promise<void> => {
    const app = new Everstep(options);
    try {
      await app.launch();
    } finally {
      await app.close();
    }
  };

  it("is checked, and shows no password", async () => {
    await assert.rejects(launched("mysql://root:hunter2@host/db"), (error: any) => error instanceof EverstepError && error.code === "config_invalid" && !error.message.includes("hunter2"));
    await assert.rejects(launched({ database: "postgresql://u:hunter2@127.0.0.1:1/db", settings: { connect_timeout_ms: 100 } }), (error: any) => !String(error).includes("hunter2"));
    await assert.rejects(launched("postgresql://u:hunter2@127.0.0.1:1/db"), (error: any) => error.code === "database_unreachable" && !error.message.includes("hunter2"));
    assert.throws(() => new Everstep({ databse: "x" } as any), fails("config_invalid", /databse/));
    assert.throws(() => new Everstep({ lease: 5 as any }), fails("config_invalid", /lease/));
  });

  it("no database under production", async () => {
    process.env["EVERSTEP_ENV"] = "production";
    try {
      await assert.rejects(launched({}), fails("no_database", /EVERSTEP_DATABASE_URL/));
    } finally {
      delete process.env["EVERSTEP_ENV"];
    }
  });

  it("options of declarations", async () => {
    const app = new Everstep();
    const step = async (): Promise<number> => 1;
    for (const options of [null, 5, { retries: 1 }, { retry: 3 }, { retry: { attempts: 3 } }, { retry: { factor: "2" } }, { retry: { factor: 0.5 } }, { retry: { retryIf: true } }, { atMostOnce: "no" }, { retry: { nonRetryable: Error } }, { retry: { nonRetryable: [5] } }]) {
      assert.throws(() => app.step("step", step, options as any), fails("config_invalid"), JSON.stringify(options));
    }
    for (const options of [null, 5, [], { strict: "no" }]) assert.throws(() => new Everstep(options as any), fails("config_invalid"));
    assert.throws(() => app.queue(5 as any), fails("id_invalid"));
    assert.throws(() => app.queue("orders", { limt: 5 } as any), fails("config_invalid"));
  });

  it("a declaration the engine refuses fails every launch, and leaves no engine that knows the others only", async () => {
    const app = new Everstep({ database: "sqlite::memory:" });
    app.step("a".repeat(300), async () => 1);
    app.workflow("other", async () => 1);
    for (let launch = 0; launch < 2; launch++) await assert.rejects(app.launch(), fails("id_invalid"));
    assert.throws(() => app.info(), fails("id_invalid"));
    await app.close();
  });

  it("settings that are no JSON", async () => {
    const cycle: Record<string, unknown> = {};
    cycle["self"] = cycle;
    for (const settings of [{ lanes: 1n }, cycle]) await assert.rejects(launched({ database: "sqlite::memory:", settings }), fails("config_invalid", /settings/));
  });

  it("closed during its launch, an engine stays closed", async () => {
    const app = new Everstep("sqlite::memory:");
    app.workflow("wf", async () => 1);
    const launching = assert.rejects(app.launch(), fails("closed"));
    await app.close();
    await launching;
    await assert.rejects(app.launch(), fails("closed"));
    assert.throws(() => app.info(), fails("closed"));
  });

  it("a logger that throws fails no run", async () => {
    setLogger(() => {
      throw new Error("the logger broke");
    });
    const write = console.error;
    const told: string[] = [];
    console.error = (text: string) => told.push(text);
    try {
      const app = new Everstep("sqlite::memory:");
      const step = app.step("step", async () => {
        app.logger.info("inside");
        return 1;
      });
      const wf = app.workflow("wf", async (_: number, ctx) => {
        ctx.logger.warn("begins");
        void ctx.runStep("floating", () => new Promise(() => undefined));
        return step();
      });
      await app.launch();
      assert.equal(await (await wf.start(1)).result(), 1);
      await app.close();
    } finally {
      console.error = write;
      setLogger();
    }
    for (const line of ["begins", "inside", "still running"]) assert.ok(told.some((text) => text.includes("the logger threw") && text.includes(line)), line);
  });

  it("serve that cannot launch leaves signals alone", async () => {
    const app = new Everstep({ database: "mysql://host/db" });
    await assert.rejects(app.serve(), fails("config_invalid"));
    assert.deepEqual([process.listenerCount("SIGTERM"), process.listenerCount("SIGINT")], [0, 0]);
    await app.close();
  });

  it("a launch that failed may be tried again", async () => {
    const app = new Everstep({ database: "postgresql://u@127.0.0.1:1/db" });
    app.workflow("wf", async () => 1);
    await assert.rejects(app.launch(), fails("database_unreachable"));
    await assert.rejects(app.launch(), fails("database_unreachable"));
    await app.close();
  });
});
