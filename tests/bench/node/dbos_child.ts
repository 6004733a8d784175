/** The DBOS SDK for TypeScript under measurement, used as its documentation recommends: registered workflows, registered queues, default settings. */

import { setTimeout as pause } from "node:timers/promises";
import { LOAD, OPTIONS, OUTPUT, gate, monotonicNs, percentile, residentMb, say, waitForGo } from "./child.js";

const BASE_MB = residentMb();

/* The line above is Node's own share. */
const { DBOS, DBOSClient } = await import("@dbos-inc/dbos-sdk");

const option = (name: string): number => OPTIONS[name] ?? 0;
const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
const HELD = OPTIONS["hold"] ?? 0;
const stepMs: number[] = [];
const startMs: number[] = [];
const recorded = gate();
let held = 0;

const work = DBOS.registerStep(async (_: number) => OUTPUT, { name: "work" });

const ten = DBOS.registerWorkflow(
  async (number: number) => {
    for (let step = 0; step < 10; step++) await work(step);
    return number;
  },
  { name: "ten" },
);

const sequential = DBOS.registerWorkflow(
  async (steps: number) => {
    for (let step = 0; step < steps; step++) {
      const began = performance.now();
      await work(step);
      stepMs.push(performance.now() - began);
    }
    return steps;
  },
  { name: "sequential" },
);

const nothing = DBOS.registerWorkflow(async (number: number) => number, { name: "nothing" });

DBOS.registerWorkflow(
  async (sentNs: number) => {
    startMs.push((monotonicNs() - sentNs) / 1e6);
    return 0;
  },
  { name: "stamp" },
);

const tenThenHold = DBOS.registerWorkflow(
  async (number: number) => {
    for (let step = 0; step < 10; step++) await work(step);
    if (HELD > 0) {
      if (++held === HELD) recorded.open();
      await new Promise(() => undefined);
    }
    return number;
  },
  { name: "ten_then_hold" },
);

type Measures = Record<string, number>;

async function launch(): Promise<void> {
  DBOS.setConfig({ name: "bench", systemDatabaseUrl: OPTIONS.url, applicationVersion: "bench", logLevel: "error" });
  await DBOS.launch();
}

async function steps(): Promise<Measures> {
  // A tenth of them first: pools and caches are warm in every system before the clock runs.
  const warm = await Promise.all(range(Math.floor(option("runs") / 10)).map((number) => DBOS.startWorkflow(ten)(-number)));
  await Promise.all(warm.map((handle) => handle.getResult()));
  say({ ready: true });
  await waitForGo();
  const began = performance.now();
  const handles = await Promise.all(range(option("runs")).map((number) => DBOS.startWorkflow(ten)(number)));
  const inFlight = residentMb();
  await Promise.all(handles.map((handle) => handle.getResult()));
  const seconds = (performance.now() - began) / 1000;
  return { runs: option("runs"), seconds, steps_per_s: (option("runs") * 10) / seconds, rss_mb: inFlight - BASE_MB };
}

async function oneByOne(): Promise<Measures> {
  await (await DBOS.startWorkflow(sequential)(20)).getResult();
  stepMs.length = 0;
  say({ ready: true });
  await waitForGo();
  await (await DBOS.startWorkflow(sequential)(option("steps"))).getResult();
  return { step_p50_ms: percentile(stepMs, 0.5), step_p99_ms: percentile(stepMs, 0.99) };
}

async function queue(): Promise<Measures> {
  await DBOS.registerQueue("bench");
  await (await DBOS.startWorkflow(nothing, { queueName: "bench" })(-1)).getResult();
  say({ ready: true });
  await waitForGo();
  const began = performance.now();
  const handles = await Promise.all(range(option("tasks")).map((number) => DBOS.startWorkflow(nothing, { queueName: "bench" })(number)));
  await Promise.all(handles.map((handle) => handle.getResult()));
  return { queue_tasks_per_s: option("tasks") / ((performance.now() - began) / 1000) };
}

async function starts(): Promise<Measures> {
  await DBOS.registerQueue("bench");
  say({ ready: true });
  await waitForGo();
  return { start_p50_ms: percentile(startMs, 0.5), start_p99_ms: percentile(startMs, 0.99), n: startMs.length };
}

async function idle(): Promise<Measures> {
  for (const number of range(option("queues"))) await DBOS.registerQueue(`bench-${String(number)}`);
  say({ ready: true });
  await waitForGo();
  return {};
}

async function hold(): Promise<Measures> {
  for (const number of range(HELD)) await DBOS.startWorkflow(tenThenHold)(number);
  await recorded.promise;
  say({ ready: true });
  await waitForGo();
  return {};
}

async function recover(): Promise<Measures> {
  say({ ready: true });
  await waitForGo();
  say({ launched: Date.now() / 1000 });
  await launch();
  await waitForGo();
  return {};
}

/** The other process: a client without workflows. */
async function enqueue(): Promise<Measures> {
  const client = await DBOSClient.create({ systemDatabaseUrl: OPTIONS.url });
  say({ ready: true });
  await waitForGo();
  for (const number of range(option("tasks"))) {
    // Spread over the poll interval of whoever polls.
    await pause(option("pause_s") * 1000 * (0.5 + ((number * 0.618) % 1)));
    await client.enqueue({ workflowName: "stamp", queueName: "bench", appVersion: "bench" }, monotonicNs());
  }
  await pause(option("settle_s") * 1000);
  await client.destroy();
  return {};
}

const LOADS: Record<string, () => Promise<Measures>> = { steps, sequential: oneByOne, queue, starts, idle, hold, recover, enqueue };
const load = LOADS[LOAD];
if (load === undefined) throw new Error(`no load ${LOAD}`);
if (load !== recover && load !== enqueue) await launch();
say({ result: await load() });
while (await waitForGo());
process.exit(0);
