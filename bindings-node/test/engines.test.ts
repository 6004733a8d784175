/** An engine beside others, and each part of its life against the others: launched, closed, waited for. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Everstep, EverstepError, setLogger } from "everstep";
import { onEveryStore, until } from "./stage.js";

const SOON = { timeout: { seconds: 20 } };

onEveryStore("another engine", (stage) => {
  it("what is of it belongs in a step, inside a workflow of this one", async () => {
    const [app, other] = [stage.engine(), stage.engine()];
    let charged = 0;
    const there = other.workflow("there", async (n: number) => n + 1);
    const charge = other.step("charge", async () => ++charged);
    const rows = other.transaction("rows", async () => ++charged);
    await other.launch();
    const known = await there.start(1);
    const ask = app.step("ask there", async () => (await there.start(41)).result(SOON));
    const plain = app.step("plain", async () => charge());
    const wf = app.workflow("wf", async (_: undefined, ctx) => {
      const refused: string[] = [];
      for (const call of [
        async () => charge(),
        async () => charge.options({ key: "a" })(),
        async () => charge.start(),
        async () => rows(),
        async () => there.start(1),
        async () => there.startMany([1]),
        async () => ctx.start(there, 1),
        async () => other.reference("there").start(1),
        async () => known.result(),
        async () => known.send("topic", 1),
        async () => known.getEvent("key"),
        async () => other.send(known, "topic", 1),
        async () => other.getEvent(known, "key"),
      ]) {
        await call().catch((error: EverstepError) => refused.push(`${error.code} ${String(/of another engine/.test(error.message))}`));
      }
      return [refused, await ask(), await plain()];
    });
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(SOON), [Array.from({ length: 13 }, () => "outside_run true"), 42, 1]);
    assert.equal(charged, 1);
    assert.equal((await other.runs({ workflow: "there" })).items.length, 2);
    await app.close();
    await other.close();
  });
});

describe("the life of an engine", () => {
  it("launch during close leaves the drain alone", async () => {
    const app = new Everstep({ database: "sqlite::memory:" });
    let [begun, finish] = [false, (): void => undefined];
    const slow = app.step("slow", async () => {
      begun = true;
      await new Promise<void>((resolve) => (finish = resolve));
      return "done";
    });
    const wf = app.workflow("wf", async () => slow());
    await app.launch();
    const result = (await wf.start()).result();
    await until(() => begun, "the step");
    const closed = app.close();
    const again = assert.rejects(app.launch(), { code: "closed" });
    // A drain that was cut would have left the run to another process by now.
    await new Promise((resolve) => setTimeout(resolve, 50));
    finish();
    assert.equal(await result, "done");
    await closed;
    await again;
  });

  it("close inside a run is refused at once", async () => {
    const app = new Everstep({ database: "sqlite::memory:" });
    let later: (() => Promise<void>) | undefined;
    const step = app.step("step", async () => {
      const kept = new Promise<void>((resolve) => {
        later = () => {
          resolve();
          return closing;
        };
      });
      const closing = kept.then(() => app.close());
      return app.close().catch((error: EverstepError) => error.code);
    });
    const wf = app.workflow("wf", async () => [await step(), await app.close().catch((error: EverstepError) => error.message)]);
    await app.launch();
    const [code, message] = await (await wf.start()).result(SOON);
    assert.equal(code, "config_invalid");
    assert.match(String(message), /close from outside/);
    // What a run leaves behind is not in it: nobody would wait for it.
    await until(async () => app.info()["executing"] === 0, "the end of the run");
    await later?.();
    assert.throws(() => app.info(), { code: "closed" });
  });

  it("waiting for a run on an engine that is not launched is said, once", async () => {
    const said: string[] = [];
    setLogger((level, message) => void (level === "warn" && said.push(message)));
    try {
      const app = new Everstep({ database: "sqlite::memory:" });
      const wf = app.workflow("wf", async () => 1);
      const run = await wf.start();
      const first = run.result();
      await assert.rejects(run.result({ timeout: { milliseconds: 20 } }), { code: "result_timeout" });
      assert.equal(said.filter((text) => text.includes("not launched")).length, 1, said.join("\n"));
      await app.launch();
      assert.equal(await first, 1);
      await app.close();
      // Nor by what cannot be launched to run anything.
      said.length = 0;
      for (const role of ["client", "starter"] as const) {
        const asks = new Everstep({ database: "sqlite::memory:", role });
        await asks.migrate();
        await assert.rejects(asks.run("nobody").result(), { code: "run_not_found" });
        await asks.close();
      }
      assert.deepEqual(said, []);
    } finally {
      setLogger();
    }
  });
});
