/** Programs that tests run as processes and worker threads: `program.mjs MODE DATABASE`. */

import { parentPort, workerData } from "node:worker_threads";
import { Everstep, type EverstepError } from "everstep";

const [mode = "", database = ""] = (workerData as string[] | null) ?? process.argv.slice(2);
const app = new Everstep({ database, autoMigrate: true });
app.queue("jobs");

/** One line, written before anything else can happen. */
function print(line: string): void {
  if (parentPort !== null) parentPort.postMessage(line);
  else console.log(line);
}

const step = app.step("step", async (n: number, context) => {
  if (mode !== "raced") print(`step ${n} attempt ${context.attempt}`);
  if (mode === "stall" && n === 2) await new Promise((resolve) => setTimeout(resolve, 600_000));
  if (mode === "exit" && n === 2) process.exit(7);
  return n * 10;
});

/** Minified, every identifier here has another name; what rows carry are texts. */
class OutOfStock extends Error {
  constructor(readonly item: string) {
    super(`no ${item}`);
  }
}
app.error("out_of_stock", OutOfStock);

const check = app.step("check", async (item: string) => {
  throw new OutOfStock(item);
});

const wf = app.workflow("wf", async (count: number, ctx) => {
  let sum = 0;
  for (let n = 0; n < count; n++) sum += await step(n);
  const missing = await check("ink").catch((error: unknown) => (error instanceof OutOfStock ? error.item : "another class"));
  const doubled = await ctx.map([1, 2], async (n, branch) => branch.runStep("double", () => n * 2, { input: n }));
  return [sum, missing, doubled];
});

const loop = app.workflow("loop", async (count: number) => {
  let sum = 0;
  for (let n = 0; n < count; n++) sum += await step(n);
  return sum;
});

let begun: () => void = () => undefined;
const slowly = new Promise<void>((resolve) => (begun = resolve));
const slow = app.step("slow", async (_: undefined, { signal }) => {
  begun();
  await new Promise((resolve) => {
    signal.addEventListener("abort", resolve);
  });
});

/** Calls that are open while another one is awaited. */
const limited = app.workflow("limited", async (_: undefined, ctx) => {
  const open = [ctx.sleep({ hours: 1 }), ctx.receive(), app.getEvent({ key: ctx.run }, "key"), ctx.all([() => ctx.sleep({ hours: 1 })])];
  await slow();
  await Promise.race([...open, step(1)]);
});

const raced = app.workflow("raced", async (_: number, ctx) => Promise.race([step(1), ctx.sleep({ hours: 1 })]));

async function main(): Promise<void> {
  switch (mode) {
    case "serve":
      print("serving");
      await app.serve({ grace: { seconds: 5 } });
      print("served");
      return;
    case "idle":
      // Launched, nothing asked for, close() forgotten.
      await app.launch();
      print("launched");
      return;
    case "unawaited":
      // A run is started and nobody waits for it; it is still this process that runs it.
      await app.launch();
      await wf.start(3, { id: "unawaited" });
      print("started");
      return;
    case "cancel": {
      await app.launch();
      const run = await limited.start();
      await slowly;
      await run.cancel();
      print(await run.result().then(() => "ended", (error: EverstepError) => error.code));
      print(`result ${JSON.stringify(await (await loop.start(2)).result())}`);
      return;
    }
    case "raced": {
      await app.launch();
      const runs = await raced.startMany(Array.from({ length: 1000 }, (_, n) => n));
      print(`result ${(await Promise.all(runs.map((run) => run.result()))).length}`);
      // close() is forgotten here, too.
      return;
    }
    case "load":
      await app.launch();
      for (;;) {
        const runs = await loop.startMany(Array.from({ length: 20 }, () => 20));
        print("running");
        await Promise.all(runs.map((run) => run.result()));
      }
    default: {
      await app.launch();
      const run = await wf.start(4, { id: "run" });
      print(`result ${JSON.stringify(await run.result())}`);
      // close() is forgotten on purpose: nothing is pending.
    }
  }
}

void main();
