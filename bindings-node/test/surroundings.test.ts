/** AsyncLocalStorage of the program: a workflow sees none of whoever happened to use the engine first. */

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { it } from "node:test";
import { onEveryStore } from "./stage.js";

onEveryStore("surroundings", (stage) => {
  it("a workflow does not run in those of the request that launched its engine", async () => {
    const requests = new AsyncLocalStorage<string>();
    const app = stage.engine();
    const wf = app.workflow("wf", async (_: undefined, ctx) => {
      const seen = [requests.getStore() ?? null];
      await ctx.sleep({ milliseconds: 1 });
      return [...seen, requests.getStore() ?? null];
    });
    await requests.run("the first request", () => app.launch());
    assert.deepEqual(await (await wf.start()).result(), [null, null]);
    await app.close();
  });
});
