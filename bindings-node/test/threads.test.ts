/** Engines in worker threads that are terminated under load: no crash, no lost run. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";
import { Worker } from "node:worker_threads";
import { Everstep } from "everstep";
import { until } from "./stage.js";

const ROUNDS = Number(process.env["EVERSTEP_TEST_ROUNDS"] ?? 500);
const PROGRAM = join(__dirname, "program.mjs");
const AT_ONCE = 4;

it(`${ROUNDS} worker threads terminated under load`, { timeout: 600_000 }, async () => {
  const folder = mkdtempSync("/dev/shm/everstep-threads-");
  let number = 0;
  const one = async (): Promise<void> => {
    while (number < ROUNDS) {
      const round = number++;
      // Where in its life a thread is caught differs from round to round: before it launched, at its first run, some runs later.
      const after = round % 3;
      const worker = new Worker(PROGRAM, { workerData: ["load", `sqlite:${join(folder, `${round % 8}.db`)}`], stdout: true, stderr: true });
      let seen = 0;
      if (after > 0) await new Promise<void>((resolve, reject) => {
        worker.on("message", (line: string) => {
          if (line === "running" || (after === 2 && line.startsWith("step") && ++seen > 30)) resolve();
        });
        worker.once("error", reject);
      });
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  // What the terminated ones had begun, an engine of the main thread finishes.
  let left = 0;
  for (let file = 0; file < Math.min(8, ROUNDS); file++) {
    const app = new Everstep({ database: `sqlite:${join(folder, `${file}.db`)}` });
    app.queue("jobs");
    const step = app.step("step", async (n: number) => n * 10);
    app.workflow("loop", async (count: number) => {
      let sum = 0;
      for (let n = 0; n < count; n++) sum += await step(n);
      return sum;
    });
    await app.launch();
    left += (await app.runs({ states: ["ready", "running", "waiting"], limit: 1000 })).items.length;
    await until(async () => (await app.runs({ states: ["ready", "running", "waiting", "blocked"], limit: 1 })).items.length === 0, "every run finished");
    const failed = await app.runs({ states: ["failed", "cancelled"], limit: 1 });
    assert.deepEqual(failed.items, []);
    await app.close();
  }
  assert.ok(left > 0, "some run was cut off");
  rmSync(folder, { recursive: true });
});
