/** What a workflow can do, on every store, and once more with a replay before every step. */

import { AsyncLocalStorage } from "node:async_hooks";
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  Cancelled,
  Decimal,
  Everstep,
  ResultTimeout,
  Run,
  RunCancelled,
  RunFailed,
  StepError,
  StepTimeout,
  type Finished,
  setLogger,
} from "everstep";
import { onEveryStore, until } from "./stage.js";


class CardDeclined extends Error {
  constructor(
    readonly reason: string,
    readonly cents: bigint,
  ) {
    super(`declined: ${reason}`);
  }
  hint(): string {
    return `ask about ${this.reason}`;
  }
}

onEveryStore("workflows", (stage) => {
  it("returns what the first run saw: decoded values, errors by class", async () => {
    const app = stage.engine();
    app.error("card_declined", CardDeclined);
    const seen: unknown[] = [];
    let calls = 0;
    const give = app.step("give", async () => {
      calls++;
      return { at: new Date(5), big: 2n ** 60n, bytes: new Uint8Array([1]), map: new Map([[1, new Set(["a"])]]), price: new Decimal("1.50") };
    });
    const charge = app.step("charge", async (card: string) => {
      if (card === "stolen") throw new CardDeclined("stolen", 4900n);
      throw new TypeError(`no such card`, { cause: new Error("lookup failed") });
    });
    const shop = app.workflow("shop", async () => {
      const given = await give();
      seen.push(given);
      const out: unknown[] = [given.big, given.price.text];
      try {
        await charge("stolen");
      } catch (error) {
        assert.ok(error instanceof CardDeclined);
        out.push(error.reason, error.cents, error.hint(), error.message, error.name);
      }
      try {
        await charge("odd");
      } catch (error) {
        assert.ok(error instanceof StepError);
        out.push(error.code, error.errorType, error.message, (error.cause as StepError).message);
      }
      return out;
    });
    await app.launch();
    assert.deepEqual(await (await shop.start(undefined, { id: "shop-1" })).result(), [
      2n ** 60n,
      "1.50",
      "stolen",
      4900n,
      "ask about stolen",
      "declined: stolen",
      "CardDeclined",
      "step_failed",
      "TypeError",
      "no such card",
      "lookup failed",
    ]);
    assert.equal(calls, 1);
    assert.deepEqual(seen.at(-1), { at: new Date(5), big: 2n ** 60n, bytes: new Uint8Array([1]), map: new Map([[1, new Set(["a"])]]), price: new Decimal("1.50") });
    await app.close();
  });

  it("a single value of each kind comes back from its step as it is read later", async () => {
    const app = stage.engine();
    const kinds = [2n ** 60n, 7n, "", 'say "é\0\u{1F600}\\"', "x".repeat(2000), true, null, undefined, 1.5, NaN, -0, [], () => new Date(7)];
    const give = app.step("give", async (index: number) => {
      const kind = kinds[index];
      return typeof kind === "function" ? kind() : kind;
    });
    const plain = app.step("plain", (index: number) => kinds[index]);
    const wf = app.workflow("wf", async () => {
      const out = [];
      for (let index = 0; index < kinds.length; index++) out.push(await give(index));
      for (let index = 0; index < kinds.length - 1; index++) out.push(await plain(index));
      return out;
    });
    await app.launch();
    const read = kinds.map((kind) => (typeof kind === "function" ? kind() : (kind ?? null)));
    assert.deepEqual(await (await wf.start()).result(), [...read, ...read.slice(0, -1)]);
    await app.close();
  });

  it("every attempt of a step runs in the surroundings of its caller", async () => {
    const app = stage.engine();
    const request = new AsyncLocalStorage<string>();
    const seen: (string | undefined)[] = [];
    const flaky = app.step(
      "flaky",
      async (how: string, step) => {
        seen.push(`${how} ${step.attempt} ${request.getStore()}`);
        if (step.attempt === 1 && how === "hangs") await new Promise(() => undefined);
        if (step.attempt === 1) throw new Error("again");
        return request.getStore() ?? "nothing";
      },
      { timeout: { milliseconds: 50 }, retry: { maxAttempts: 2, initial: { milliseconds: 1 } } },
    );
    const marked = app.step("marked", async () => request.getStore() ?? "nothing", { atMostOnce: true });
    const wf = app.workflow("wf", async () => [
      await request.run("a", () => flaky("throws")),
      await request.run("b", () => flaky("hangs")),
      await request.run("c", () => marked()),
    ]);
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(), ["a", "b", "c"]);
    assert.deepEqual(seen, ["throws 1 a", "throws 2 a", "hangs 1 b", "hangs 2 b"]);
    await app.close();
  });

  it("retries a step by its policy, and no other", async () => {
    const app = stage.engine();
    const attempts: number[] = [];
    class Final extends Error {}
    const flaky = app.step(
      "flaky",
      async (kind: string, step) => {
        attempts.push(step.attempt);
        if (kind === "final") throw new Final("no");
        if (step.attempt < 3) throw new Error("again");
        return `attempt ${step.attempt}, ${step.idempotencyKey.length}`;
      },
      { retry: { maxAttempts: 3, initial: { milliseconds: 1 }, nonRetryable: [Final] } },
    );
    const once = app.step("once", async () => {
      attempts.push(100);
      throw new Error("once");
    });
    const wf = app.workflow("wf", async () => {
      const out = [await flaky("works")];
      await flaky("final").catch((error: Error) => out.push(error.message));
      await once().catch((error: Error) => out.push(error.message));
      return out;
    });
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(), ["attempt 3, 36", "no", "once"]);
    assert.deepEqual(attempts, [1, 2, 3, 1, 100]);
    await app.close();
  });

  it("all, map, any, race; a failed branch is thrown after the others", async () => {
    const app = stage.engine();
    const ran: string[] = [];
    const size = app.step("size", async (word: string, step) => {
      if (word === "missing") throw new RangeError(word);
      if (word === "slow") await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 30_000);
        step.signal.addEventListener("abort", () => {
          clearTimeout(timer);
          reject(step.signal.reason as Error);
        });
      });
      ran.push(word);
      return word.length;
    });
    const wf = app.workflow("wf", async (words: string[], ctx) => {
      const sizes = await ctx.map(words, (word) => size(word), { key: (word) => word, limit: 2 });
      const named = await ctx.map("label", words, (word, step) => `${word}${step.idempotencyKey.length}`);
      const both = await ctx.all([() => size("a"), async (branch) => [await size("bb"), await branch.runStep("inner", () => 7)]]);
      const first = await ctx.any([() => size("missing"), () => size("there")]);
      const winner = await ctx.race([() => size("here"), () => size("slow")]);
      const lost = await ctx.race([() => size("missing"), () => ctx.sleep({ hours: 1 })]).catch((error: StepError) => error.errorType);
      const none = await ctx.any([() => size("missing")]).catch((error: StepError) => error.message);
      const failed = await ctx.all([() => size("missing"), () => size("late")]).catch((error: StepError) => error.message);
      return { sizes, named, both, first, winner, lost, none, failed, empty: await ctx.all([]) };
    });
    await app.launch();
    assert.deepEqual(await (await wf.start(["one", "three"])).result(), {
      sizes: [3, 5],
      named: ["one36", "three36"],
      both: [1, [2, 7]],
      first: 5,
      winner: 4,
      lost: "RangeError",
      none: "missing",
      failed: "missing",
      empty: [],
    });
    assert.ok(ran.includes("late"));
    await app.close();
  });

  it("children, messages, events", async () => {
    const app = stage.engine();
    const count = app.workflow("count", async (words: string[]) => words.length);
    const review = app.workflow("review", async (title: string, ctx) => {
      const child = await ctx.start(count, title.split(" "), { id: `count-${title}` });
      await ctx.setEvent("stage", { words: await child.result() });
      const verdict = await ctx.receive<string>("verdict", { timeout: { seconds: 30 } });
      const late = await ctx.receive("never", { timeout: { milliseconds: 1 } });
      return [verdict, late, ctx.runId];
    });
    const writer = app.workflow("writer", async (to: string, ctx) => {
      const stageOf = await ctx.getEvent<{ words: number }>(to, "stage", { timeout: { seconds: 30 } });
      await ctx.send(to, "verdict", `fine, ${String(stageOf?.words)} words`);
      return app.run<unknown[]>(to).result({ timeout: { seconds: 30 } });
    });
    await app.launch();
    await review.start("On durable things", { id: "review-1" });
    assert.deepEqual(await (await writer.start("review-1")).result(), ["fine, 3 words", null, "review-1"]);
    const again = await review.start("On durable things", { id: "review-1" });
    assert.equal(again.attached, true);
    assert.equal((await app.run("count-On durable things").status()).workflow, "count");
    await app.close();
  });

  it("a run is its handle, its key, or its id; a text is an id", async () => {
    const app = stage.engine();
    const wf = app.workflow("wf", async (_: number, ctx) => {
      // What a run knows of itself is its key.
      const self = { key: ctx.run };
      await ctx.send(self, "topic", "from myself");
      await ctx.setEvent("stage", "begun");
      const asId = await ctx.send(ctx.run, "topic", "nobody has this id").catch((error: { code: string }) => error.code);
      return [await ctx.receive("topic"), await ctx.getEvent(self, "stage"), asId, await ctx.receive("topic")];
    });
    await app.launch();
    const run = await wf.start(1);
    await app.send({ key: run.key }, "topic", "from outside");
    const [first, stage_, asId, second] = await run.result();
    assert.deepEqual([new Set([first, second]), stage_, asId], [new Set(["from myself", "from outside"]), "begun", "run_not_found"]);
    assert.equal(await app.getEvent({ key: run.key }, "stage"), "begun");
    for (const bad of [null, 5, {}, { key: 5 }]) await assert.rejects(app.send(bad as never, "topic", 1), { code: "id_invalid" });
    await app.close();
  });

  it("a cancel reaches a waiting run and a running step, and lets clean-up run", async () => {
    const app = stage.engine();
    const events: string[] = [];
    const undo = app.step("undo", async (what: string) => void events.push(`undo ${what}`));
    const hang = app.step("hang", (_: number, step) => {
      events.push("hanging");
      return new Promise<void>((_resolve, reject) => {
        step.signal.addEventListener("abort", () => {
          reject(step.signal.reason as Error);
        });
      });
    });
    const running = app.workflow("running", async (_: number, ctx) => {
      try {
        await hang(1);
      } catch (error) {
        assert.ok(error instanceof Cancelled);
        await ctx.shielded(() => undo(`running, ${error.by}: ${error.why}`));
        throw error;
      }
    });
    const waiting = app.workflow("waiting", async (_: number, ctx) => {
      try {
        await ctx.setEvent("here", true);
        await ctx.receive("never");
      } finally {
        await ctx.shielded(() => undo("waiting"));
      }
    });
    await app.launch();
    const one = await running.start(1);
    await until(() => events.includes("hanging"), "the step runs");
    assert.equal(await one.cancel({ by: "ann", why: "test" }), "requested");
    await assert.rejects(one.result(), (error: unknown) => error instanceof RunCancelled && error.message.includes("ann"));
    const two = await waiting.start(1);
    await two.getEvent("here", { timeout: { seconds: 30 } });
    await two.cancel();
    await assert.rejects(two.result(), RunCancelled);
    assert.deepEqual(events.filter((event) => event.startsWith("undo")), ["undo running, ann: test", "undo waiting"]);
    assert.equal(await two.cancel(), "already_finished");
    await app.close();
  });

  it("a step's timeout aborts its signal and is not waited for", async () => {
    const app = stage.engine();
    let aborted = false;
    const slow = app.step(
      "slow",
      (_: number, step) =>
        new Promise<never>(() => {
          step.signal.addEventListener("abort", () => {
            aborted = step.signal.reason instanceof StepTimeout;
          });
        }),
      { timeout: { milliseconds: 30 } },
    );
    const wf = app.workflow("wf", async () => slow(1).catch((error: unknown) => (error instanceof StepTimeout ? error.code : String(error))));
    await app.launch();
    assert.equal(await (await wf.start()).result(), "step_timeout");
    assert.equal(aborted, true);
    await app.close();
  });

  it("a step is a job; lists and attributes", async () => {
    const app = stage.engine();
    app.queue("mail", { limit: 2 });
    const deliver = app.step("deliver", async (address: string, step) => `${address} ${step.idempotencyKey.length}`);
    await app.launch();
    const runs = await deliver.startMany(["ann", "bob", "cy"], { queue: "mail", attributes: { campaign: "may", wave: 1 }, id: (who) => `mail-${who}` });
    assert.deepEqual(await Promise.all(runs.map((run) => run.result())), ["ann 36", "bob 36", "cy 36"]);
    const page = await app.runs({ queue: "mail", attribute: ["campaign", "may"], limit: 2 });
    assert.equal(page.items.length, 2);
    const rest = await app.runs({ queue: "mail", attribute: ["campaign", "may"], ...(page.next !== null && { after: page.next }) });
    assert.deepEqual([...page.items, ...rest.items].map((run) => run.id).sort(), ["mail-ann", "mail-bob", "mail-cy"]);
    assert.deepEqual(page.items[0]?.attributes, { campaign: "may", wave: 1 });
    assert.equal((await app.putQueue("mail", { limit: 5 })).limit, 5);
    await app.pauseQueue("mail");
    assert.equal((await app.queues()).find((queue) => queue.name === "mail")?.paused, true);
    await app.close();
  });

  it("durable values, patches, runStep, the sugar", async () => {
    const app = stage.engine();
    const seen = new Map<string, Set<string>>();
    const note = (name: string, value: unknown): void => void seen.set(name, (seen.get(name) ?? new Set()).add(String(value)));
    const wf = app.workflow("wf", async () => {
      note("uuid", await app.uuid());
      note("random", await app.random());
      note("now", (await app.now()).getTime());
      await app.sleep({ milliseconds: 1 });
      await app.sleepUntil(new Date(0));
      const label = await app.runStep("label", (step) => `label ${step.attempt}`, { input: { order: 1 } });
      const mapped = await app.map([1, 2], async (n, ctx) => ctx.runStep("double", () => n * 2, { input: n }));
      return [label, mapped, app.patch("v2"), app.runKey === app.context().run];
    });
    await app.launch();
    const run = await wf.start();
    assert.deepEqual(await run.result(), ["label 1", [2, 4], true, true]);
    for (const values of seen.values()) assert.equal(values.size, 1);
    assert.deepEqual((await run.steps()).filter((step) => step.branch === "").map((step) => step.name), ["uuid", "random", "now", "sleep", "sleep", "label", "map", "v2"].filter((name) => name !== "map"));
    await app.close();
  });

  it("a run's retry, its deadline, the run that follows it", async () => {
    const app = stage.engine();
    let attempts = 0;
    const outcomes: unknown[] = [];
    const after = app.workflow("after", async (outcome: Finished) => void outcomes.push(outcome));
    const wf = app.workflow(
      "wf",
      async (_: number, ctx) => {
        attempts = Math.max(attempts, ctx.attempt);
        if (ctx.attempt < 2) throw new Error("first");
        return ctx.attempt;
      },
      { retry: { maxAttempts: 2, initial: { milliseconds: 1 } }, onFinish: after },
    );
    const late = app.workflow("late", async (_: number, ctx) => ctx.receive("never"), { deadline: { milliseconds: 50 } });
    await app.launch();
    const run = await wf.start(1);
    assert.equal(await run.result(), 2);
    await until(() => outcomes.length > 0, "the run that follows");
    assert.deepEqual(outcomes[0], { run: run.key, workflow: "wf", state: "succeeded", value: 2 });
    await assert.rejects((await late.start(1)).result(), RunCancelled);
    await app.close();
  });

  it("a failed run tells its cause, and what a run waits for", async () => {
    const app = stage.engine();
    const bad = app.workflow("bad", async () => Promise.reject(new TypeError("wrong")));
    const open = app.workflow("open", async (_: number, ctx) => ctx.receive("door"));
    await app.launch();
    await assert.rejects((await bad.start()).result(), (error: unknown) => {
      assert.ok(error instanceof RunFailed && error.code === "run_failed" && error.message === "TypeError: wrong");
      assert.equal((error.cause as StepError).errorType, "TypeError");
      return true;
    });
    const run = await open.start(1, { id: "open-1" });
    await assert.rejects(run.result({ timeout: { milliseconds: 100 } }), (error: unknown) => error instanceof ResultTimeout && error.message.includes("door"));
    await app.close();
  });
});

describe("engines", () => {
  it("a dozen in one process: no warning of a leak, and no listener is left", async () => {
    const warned: Error[] = [];
    const onWarning = (warning: Error): void => void warned.push(warning);
    process.on("warning", onWarning);
    const before = [process.listenerCount("exit"), process.listenerCount("beforeExit")];
    const apps = Array.from({ length: 12 }, () => new Everstep("sqlite::memory:"));
    await Promise.all(apps.map((app) => app.launch()));
    await Promise.all(apps.map((app) => app.close()));
    // Warnings are told in a later turn of the loop.
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", onWarning);
    assert.deepEqual(warned, []);
    assert.deepEqual([process.listenerCount("exit"), process.listenerCount("beforeExit")], before);
  });

  it("two in one process, each with its own functions", async () => {
    setLogger(() => undefined);
    const { mkdtempSync, rmSync } = await import("node:fs");
    const folder = mkdtempSync("/tmp/everstep-two-");
    await using one = new Everstep(`sqlite:${folder}/one.db`);
    await using two = new Everstep(`sqlite:${folder}/two.db`);
    const a = one.workflow("same", async () => "one");
    const b = two.workflow("same", async () => "two");
    await one.launch();
    await two.launch();
    assert.deepEqual([await (await a.start()).result(), await (await b.start()).result()], ["one", "two"]);
    assert.ok((await a.start()) instanceof Run);
    rmSync(folder, { recursive: true });
    setLogger();
  });
});
