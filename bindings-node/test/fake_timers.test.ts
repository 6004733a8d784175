/** Programs are tested under a clock of the test's own: the engine goes on under it. */

import assert from "node:assert/strict";
import { it, mock } from "node:test";
import { onEveryStore } from "./stage.js";

onEveryStore("fake timers", (stage) => {
  it("runs, parallel steps and waits go on; close ends", async () => {
    const app = stage.engine();
    const step = app.step("step", async (n: number) => n);
    const wf = app.workflow("wf", async (_: number, ctx) => {
      const all = await Promise.all([step(1), step(2), step(3)]);
      await ctx.sleep({ milliseconds: 1 });
      return [...all, await Promise.race([step(4), step(5)])];
    });
    mock.timers.enable({ apis: ["setTimeout", "setInterval", "setImmediate", "Date"] });
    try {
      await app.launch();
      assert.deepEqual((await (await wf.start(1)).result()).slice(0, 3), [1, 2, 3]);
      await app.close();
    } finally {
      mock.timers.reset();
    }
  });
});
