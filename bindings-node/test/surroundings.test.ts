/** AsyncLocalStorage of the program: a workflow sees none of whoever happened to use the engine first. */

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { it } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { onEveryStore, until } from "./stage.js";

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

  it("an engine with something pending keeps none of them", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const requests = new AsyncLocalStorage<object>();
    const app = stage.engine();
    const wf = app.workflow("wf", async (_: undefined, ctx) => ctx.sleep({ hours: 1 }));
    const first = async (): Promise<WeakRef<object>> => {
      const request = {};
      await requests.run(request, async () => {
        await app.launch();
        await wf.start();
      });
      return new WeakRef(request);
    };
    const request = await first();
    await until(() => {
      collect();
      return request.deref() === undefined;
    }, "the end of the first request");
    await app.close({ grace: { milliseconds: 0 } });
  });
});
