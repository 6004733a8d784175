/** Everstep's Node package under measurement, through its public surface only. */

import { setTimeout as pause } from "node:timers/promises";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { LOAD, OPTIONS, OUTPUT, gate, monotonicNs, percentile, residentMb, say, waitForGo } from "./child.js";

const BASE_MB = residentMb();

/* The line above is Node's own share. */
const { Everstep } = (await import("everstep")) as typeof import("everstep");

const WIDE = new Set(["steps", "queue", "hold", "recover", "sleepers", "waiting"]);
const QUEUE = "bench";
const HELD = OPTIONS["hold"] ?? 0;
/** The default number of parked runs. */
const PARKED = 1000;

const option = (name: string): number => OPTIONS[name] ?? 0;
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index);
const stepMs: number[] = [];
const startMs: number[] = [];
const reached = gate();
let counted = 0;

const app = new Everstep({
  database: OPTIONS.url,
  role: LOAD === "enqueue" || LOAD === "fill" ? "client" : "worker",
  autoMigrate: true,
  // Where 1,000 runs are to be in flight; else the default.
  ...(WIDE.has(LOAD) && { slots: 1000 }),
  // The load of 10,000 waiting runs measures them in memory.
  ...(LOAD === "waiting" && { settings: { max_parked: 20_000 } }),
});
if (LOAD !== "enqueue") app.queue(QUEUE);
if (LOAD === "idle" || LOAD === "busy") for (const number of range(0, option("queues"))) app.queue(`bench-${String(number)}`);

function countTo(wanted: number): void {
  if (++counted === wanted) reached.open();
}

const work = app.step("work", async (_: number) => OUTPUT);

const ten = app.workflow("ten", async (number: number) => {
  for (let step = 0; step < 10; step++) await work(step);
  return number;
});

const sequential = app.workflow("sequential", async (steps: number) => {
  for (let step = 0; step < steps; step++) {
    const began = performance.now();
    await work(step);
    stepMs.push(performance.now() - began);
  }
  return steps;
});

const nothing = app.workflow("nothing", async (number: number) => number);

const stamp = app.workflow("stamp", async (sentNs: number) => {
  startMs.push((monotonicNs() - sentNs) / 1e6);
  return 0;
});

const tenThenHold = app.workflow("ten_then_hold", async (number: number) => {
  for (let step = 0; step < 10; step++) await work(step);
  if (HELD > 0) {
    countTo(HELD);
    await new Promise(() => undefined);
  }
  return number;
});

const sleeper = app.workflow("sleeper", async (number: number, ctx) => {
  countTo(option("runs"));
  await ctx.sleep({ hours: 1 });
  return number;
});

type Measures = Record<string, number>;

/** So many complete ten-step runs at all times; how many there were. */
async function inFlight(count: number, until: number): Promise<number> {
  let ended = 0;
  const oneAfterAnother = async (): Promise<void> => {
    while (performance.now() < until) {
      await (await ten.start(ended)).result();
      ended++;
    }
  };
  await Promise.all(range(0, count).map(oneAfterAnother));
  return ended;
}

async function steps(): Promise<Measures> {
  await inFlight(Math.floor(option("in_flight") / 10), performance.now() + 500);
  say({ ready: true });
  await waitForGo();
  const began = performance.now();
  let highest = 0;
  const looking = setInterval(() => {
    highest = Math.max(highest, residentMb());
  }, 500);
  const runs = await inFlight(option("in_flight"), began + option("seconds") * 1000);
  const seconds = (performance.now() - began) / 1000;
  clearInterval(looking);
  return { runs, seconds, steps_per_s: (runs * 10) / seconds, rss_mb: highest - BASE_MB };
}

async function oneByOne(): Promise<Measures> {
  await (await sequential.start(20)).result();
  stepMs.length = 0;
  say({ ready: true });
  await waitForGo();
  await (await sequential.start(option("steps"))).result();
  return { step_p50_ms: percentile(stepMs, 0.5), step_p99_ms: percentile(stepMs, 0.99) };
}

async function queue(): Promise<Measures> {
  await (await nothing.start(-1, { queue: QUEUE })).result();
  say({ ready: true });
  await waitForGo();
  const began = performance.now();
  const runs = await nothing.startMany(range(0, option("tasks")), { queue: QUEUE });
  await Promise.all(runs.map((run) => run.result()));
  return { queue_tasks_per_s: option("tasks") / ((performance.now() - began) / 1000) };
}

async function starts(): Promise<Measures> {
  say({ ready: true });
  await waitForGo();
  return { start_p50_ms: percentile(startMs, 0.5), start_p99_ms: percentile(startMs, 0.99), n: startMs.length };
}

async function idle(): Promise<Measures> {
  say({ ready: true });
  await waitForGo();
  return {};
}

/** Work without end, in 50 runs at a time. */
async function busy(): Promise<Measures> {
  let over = false;
  void waitForGo().then(() => {
    over = true;
  });
  const oneAfterAnother = async (): Promise<void> => {
    while (!over) await (await ten.start(0)).result();
  };
  say({ ready: true });
  await Promise.all(range(0, 50).map(oneAfterAnother));
  return {};
}

async function hold(): Promise<Measures> {
  await tenThenHold.startMany(range(0, HELD));
  await reached.promise;
  say({ ready: true });
  await waitForGo();
  return {};
}

async function startSleepers(): Promise<void> {
  for (let first = 0; first < option("runs"); first += 1000) await sleeper.startMany(range(first, Math.min(first + 1000, option("runs"))));
  await reached.promise;
}

/** Memory once all runs sleep and all but the parked ones are released. */
async function sleepers(): Promise<Measures> {
  await Promise.all((await nothing.startMany(range(0, 2000))).map((run) => run.result()));
  const before = residentMb();
  say({ ready: true });
  await waitForGo();
  await startSleepers();
  while (Number(app.info()["executing"]) > PARKED) await pause(100);
  return { rss_mb: residentMb() - before };
}

/** Delay of the event loop while so many runs wait in this process. */
async function waiting(): Promise<Measures> {
  await startSleepers();
  say({ ready: true });
  await waitForGo();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await pause(option("seconds") * 1000);
  delay.disable();
  return { event_loop_p50_ms: delay.percentile(50) / 1e6, event_loop_p99_ms: delay.percentile(99) / 1e6, executing: Number(app.info()["executing"]) };
}

/** The other process: a client. */
async function enqueue(): Promise<Measures> {
  say({ ready: true });
  await waitForGo();
  for (const number of range(0, option("tasks"))) {
    // Spread over the poll interval of whoever polls.
    await pause(option("pause_s") * 1000 * (0.5 + ((number * 0.618) % 1)));
    await stamp.start(monotonicNs(), { queue: QUEUE });
  }
  await pause(option("settle_s") * 1000);
  return {};
}

/** A backlog nobody works on: of a queue, of a workflow no worker knows, or of work for later. */
async function fill(): Promise<Measures> {
  const unserved = app.reference<number>("unserved");
  if (OPTIONS.variant === "queue") await app.putQueue("other");
  say({ ready: true });
  await waitForGo();
  for (let first = 0; first < option("runs"); first += 5000) {
    const numbers = range(first, Math.min(first + 5000, option("runs")));
    if (OPTIONS.variant === "queue") await unserved.startMany(numbers, { queue: "other" });
    else if (OPTIONS.variant === "workflow") await unserved.startMany(numbers, { queue: QUEUE });
    else await stamp.startMany(numbers, { queue: QUEUE, delay: { days: 1 } });
  }
  return {};
}

async function recover(): Promise<Measures> {
  say({ ready: true });
  await waitForGo();
  say({ launched: Date.now() / 1000 });
  await app.launch();
  await waitForGo();
  return {};
}

const LOADS: Record<string, () => Promise<Measures>> = { steps, sequential: oneByOne, queue, starts, idle, busy, hold, sleepers, waiting, enqueue, fill, recover };
const load = LOADS[LOAD];
if (load === undefined) throw new Error(`no load ${LOAD}`);
if (load !== recover) await app.launch();
const result = await load();
await app.close();
say({ result });
while (await waitForGo());
process.exit(0);
