/**
 * `npx everstep demo`: a checkout whose process is killed in step four; another process finishes it.
 *
 * Everything happens in a temporary folder on SQLite. The processes are real, the kill is SIGKILL, and the timeline is read back from the database and from a side
 * file that each step appends to, so that a step that ran twice would show.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Everstep } from "./app.js";
import type { StepContext } from "./step_context.js";

const RUN_ID = "order-1042";
const STEPS = ["reserve_stock", "charge_card", "print_label", "send_mail", "close_order"] as const;

interface Order {
  number: number;
  item: string;
  cents: number;
}

/** The program both processes run: starts the run, or attaches to it, and waits for its end. */
export async function worker(folder: string): Promise<void> {
  const app = new Everstep(`sqlite:${join(folder, "demo.db")}`);
  const note = (step: StepContext): void => {
    appendFileSync(join(folder, "diary.txt"), `${step.name} ${String(step.attempt)} ${String(process.pid)} ${String(Date.now())} ${step.idempotencyKey}\n`);
  };
  const reserve = app.step("reserve_stock", async (_: Order, step) => {
    note(step);
    return 1;
  });
  const charge = app.step("charge_card", async (order: Order, step) => {
    note(step);
    return `payment for ${String(order.cents)} cents`;
  });
  const print = app.step("print_label", async (order: Order, step) => {
    note(step);
    return `label ${String(order.number)}`;
  });
  const mail = app.step("send_mail", async (_: { payment: string; label: string }, step) => {
    note(step);
    if (process.env["EVERSTEP_DEMO_STALL"] !== undefined) await pause(600_000); // the process is killed here
  });
  const finish = app.step("close_order", async (_: Order, step) => {
    note(step);
  });
  const checkout = app.workflow("checkout", async (order: Order) => {
    await reserve(order);
    const payment = await charge(order);
    const label = await print(order);
    await mail({ payment, label });
    await finish(order);
    return { order, payment, label };
  });
  await app.launch();
  const run = await checkout.start({ number: 1042, item: "lamp", cents: 4900 }, { id: RUN_ID });
  console.log((await run.result({ timeout: { minutes: 2 } })).label);
  await app.close();
}

interface Entry {
  step: string;
  attempt: string;
  pid: string;
  at: number;
  key: string;
}

function entries(folder: string): Entry[] {
  const diary = join(folder, "diary.txt");
  if (!existsSync(diary)) return [];
  return readFileSync(diary, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [step = "", attempt = "", pid = "", at = "", key = ""] = line.split(" ");
      return { step, attempt, pid, at: Number(at), key };
    });
}

function start(script: string, folder: string, environment: NodeJS.ProcessEnv): ChildProcess {
  return spawn(process.execPath, [script, "demo", "--worker", folder], { env: { ...process.env, ...environment }, stdio: ["ignore", "pipe", "inherit"] });
}

function ended(child: ChildProcess): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve) => {
    let output = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (output += text));
    child.once("close", (code) => {
      resolve({ code, output: output.trim() });
    });
  });
}

/** The exit code. `script` is the program that runs `worker` for `demo --worker FOLDER`. */
export async function demo(script: string): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "everstep-demo-"));
  try {
    return await play(script, folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function play(script: string, folder: string): Promise<number> {
  const first = start(script, folder, { EVERSTEP_DEMO_STALL: "1" });
  const gone = ended(first);
  console.log(`process ${String(first.pid)} runs checkout ${RUN_ID} on ${join(folder, "demo.db")}`);
  const deadline = performance.now() + 60_000;
  while (!entries(folder).some((entry) => entry.step === "send_mail")) {
    if (first.exitCode !== null || performance.now() > deadline) {
      console.error("the first process ended before step four");
      return 1;
    }
    await pause(20);
  }
  first.kill("SIGKILL");
  await gone;
  const killed = Date.now();
  console.log(`process ${String(first.pid)} killed with SIGKILL inside step four (send_mail)`);
  const second = start(script, folder, {});
  console.log(`process ${String(second.pid)} started on the same file`);
  const { code, output } = await ended(second);
  if (code !== 0) {
    console.error("the second process failed");
    return 1;
  }
  return report(folder, output, killed);
}

async function report(folder: string, label: string, killed: number): Promise<number> {
  const diary = entries(folder);
  const began = diary[0]?.at ?? 0;
  console.log(`\n${"step".padEnd(14)}${"attempt".padStart(8)}${"process".padStart(10)}${"time".padStart(12)}   idempotency key`);
  let marked = false;
  for (const { step, attempt, pid, at, key } of diary) {
    if (!marked && at > killed) {
      console.log(`${"- SIGKILL -".padEnd(32)}${String(killed - began).padStart(9)} ms`);
      marked = true;
    }
    console.log(`${step.padEnd(14)}${attempt.padStart(8)}${pid.padStart(10)}${String(at - began).padStart(9)} ms   ${key}`);
  }
  const ran = (step: string): number => diary.filter((entry) => entry.step === step).length;
  const app = new Everstep({ database: `sqlite:${join(folder, "demo.db")}`, role: "client" });
  const run = app.run(RUN_ID);
  const { state } = await run.status();
  const recorded = (await run.steps()).map((step) => step.name).join(", ");
  await app.close();
  console.log(`\nrun ${RUN_ID}: ${state}, recorded ${recorded}; result ${label}`);
  const once = STEPS.every((step) => ran(step) === (step === "send_mail" ? 2 : 1));
  const oneKey = new Set(diary.filter((entry) => entry.step === "send_mail").map((entry) => entry.key)).size === 1;
  if (!once || !oneKey || state !== "succeeded" || recorded !== STEPS.join(", ")) {
    console.error("not as it should be");
    return 1;
  }
  console.log("steps one to three ran once; step four was cut short and ran again with the same idempotency key");
  return 0;
}
