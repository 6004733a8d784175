/** Limits of queues, and one run a key. */

import assert from "node:assert/strict";
import { it } from "node:test";
import { Everstep } from "everstep";
import { onEveryStore, until } from "./stage.js";

const SOON = { timeout: { seconds: 20 } };

onEveryStore("queues", (stage) => {
  it("limits of a queue, of a worker, of a key are reached and not passed", async () => {
    const app = stage.engine();
    app.queue("whole", { limit: 3 });
    app.queue("worker", { workerLimit: 2 });
    app.queue("key", { keyLimit: 1 });
    const limits = new Map([["whole", 3], ["worker", 2], ["key a", 1], ["key b", 1]]);
    const now = new Map<string, number>();
    const most = new Map<string, number>();
    const left = new Map<string, number>();
    const count = (map: Map<string, number>, group: string): number => map.get(group) ?? 0;
    const hold = app.step("hold", async (group: string) => {
      now.set(group, count(now, group) + 1);
      most.set(group, Math.max(count(most, group), count(now, group)));
      // Nobody leaves before as many are in as the limit allows.
      await until(() => count(most, group) >= Math.min(limits.get(group) ?? 0, count(left, group)), `${group} full`);
      now.set(group, count(now, group) - 1);
      left.set(group, count(left, group) - 1);
    });
    const wf = app.workflow("wf", async (group: string) => hold(group));
    const runs = [];
    await app.launch();
    for (const group of limits.keys()) left.set(group, 6);
    for (let i = 0; i < 6; i++) {
      for (const group of limits.keys()) {
        const [queue = "", fairnessKey] = group.split(" ");
        runs.push(await wf.start(group, { queue, ...(fairnessKey !== undefined && { fairnessKey }) }));
      }
    }
    await Promise.all(runs.map((run) => run.result(SOON)));
    assert.deepEqual(most, limits);
    const [key] = (await app.queues()).filter((queue) => queue.name === "key");
    assert.deepEqual(key, { name: "key", paused: false, limit: null, workerLimit: null, keyLimit: 1, hold: false });
    await app.close();
  });

  it("one run a key: attach, reject, replace; until done, while queued, for a time", async () => {
    const app = stage.engine();
    app.queue("jobs", { paused: true });
    const wf = app.workflow("wf", async (n: number, ctx) => {
      await ctx.receive("go");
      return n;
    });
    const quick = app.workflow("quick", async (n: number) => n);
    await app.launch();
    const key = (policy: "attach" | "reject" | "replace", scope: "queued" | "until_done" | { hours: number } = "until_done"): object => ({ dedup: { key: "order-7", policy, scope } });
    const first = await wf.start(1, key("attach"));
    const second = await wf.start(2, key("attach"));
    assert.deepEqual([second.key, second.attached], [first.key, true]);
    await assert.rejects(wf.start(3, key("reject")), { code: "run_deduplicated" });
    await first.send("go", 1);
    assert.equal(await second.result(SOON), 1);
    // Its key is free again.
    const third = await wf.start(4, key("reject"));
    await third.cancel();
    await assert.rejects(third.result(SOON), { code: "run_cancelled" });
    // While it waits in a queue it gives way to the next.
    const waits = await wf.start(5, { queue: "jobs", dedup: { key: "order-8", scope: "queued", policy: "attach" } });
    const instead = await wf.start(6, { queue: "jobs", dedup: { key: "order-8", scope: "queued", policy: "replace" } });
    assert.notEqual(instead.key, waits.key);
    await assert.rejects(waits.result(SOON), { code: "run_cancelled" });
    // A time counts from the start, whatever became of the run.
    const once = await quick.start(7, key("attach", { hours: 1 }));
    assert.equal(await once.result(SOON), 7);
    const again = await quick.start(8, key("attach", { hours: 1 }));
    assert.deepEqual([again.key, again.attached, await again.result(SOON)], [once.key, true, 7]);
    // To a caller without types null is what was not said.
    const unsaid = await quick.start(9, { dedup: { key: "order-7", policy: null, scope: { hours: 1 } } } as never);
    assert.deepEqual([unsaid.key, unsaid.attached], [once.key, true]);
    for (const dedup of [{ key: "k", policy: "ignore" }, { key: "k", scope: "forever" }, { key: "k", scope: { hours: 0 } }, { key: "" }]) {
      await assert.rejects(quick.start(9, { dedup } as never), (error: { code: string }) => ["config_invalid", "id_invalid", "frame_invalid"].includes(error.code), JSON.stringify(dedup));
    }
    await app.close();
  });
});

it("`await using` closes the engine", async () => {
  const inside = async (): Promise<Everstep> => {
    await using app = new Everstep("sqlite::memory:");
    const wf = app.workflow("wf", async () => 1);
    await app.launch();
    assert.equal(await (await wf.start()).result(SOON), 1);
    return app;
  };
  const app = await inside();
  assert.throws(() => app.info(), { code: "closed" });
});
