/** The conformance worker: an interpreter of the programs of tests/README.md on the public API, driven by JSON lines on stdin. */

import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { existsSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { CalendarDate, Decimal, Everstep, EverstepError, type Finished, Timestamp, Uuid, type Policy, Run, type Step, type StepContext, pgTx, setLogger } from "everstep";
import { isDeepStrictEqual } from "node:util";
import pg from "pg";

 
const CONFIG = JSON.parse(process.argv[2] ?? "");
const { EVERSTEP_SUITE_BUILD: BUILD = "v1", EVERSTEP_SUITE_WITHOUT: WITHOUT } = process.env;
const LOG = openSync(CONFIG.log, "a");
const HERE = new AsyncLocalStorage<{ run: string; place: string; o: any }>(); // the step being called
const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const keys = (given: object, to: (name: string) => string): any => Object.fromEntries(Object.entries(given).map(([name, value]) => [to(name), value]));
const ms = (value: number | null | undefined): any => (value === null || value === undefined ? {} : { timeout: { milliseconds: value } });

const { lease_ms: leaseMs, outage_budget_ms: outageMs, database, schema, namespace, environment, version, role, queues, slots, max_payload: maxPayload, ...settings } = CONFIG.engine;
const span = (milliseconds: number | undefined): any => (milliseconds === undefined ? undefined : { milliseconds });
const named = { database, schema, namespace, environment, version, role, queues, slots, maxPayload, autoMigrate: settings.auto_migrate, replay: settings.replay };
const app = new Everstep({ ...named, lease: span(leaseMs), outageBudget: span(outageMs), settings });

function note(kind: string, run: string, place: string, detail: unknown = "-", attempt = 0): void {
  writeSync(LOG, `${kind} ${run} ${place} ${attempt} ${process.pid} ${process.hrtime.bigint()} ${String(detail)}\n`);
}
const gate = (name: string): string => join(CONFIG.gates, name);
async function passing(name: string, signal: AbortSignal): Promise<void> {
  while (!existsSync(gate(name))) await pause(20, undefined, { signal });
}

class Flaky extends Error {
  constructor(readonly attempt: number) {
    super(`flaky attempt ${attempt}`);
  }
}
app.error("flaky", Flaky);

async function effect(value: unknown, step: StepContext): Promise<unknown> {
  const { run, place, o } = HERE.getStore() ?? { run: "job", place: "0", o: Object(value) };
  const { attempt, signal } = step;
  note("begin", run, place, "limited" in o ? `limit ${o.limited.join(" ")}` : "-", attempt);
  if (o.show_key) note("value", run, place, step.idempotencyKey, attempt);
  if (o.busy) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, o.busy);
  const wait = (o.ms ?? 0) + Math.random() * (o.jitter_ms ?? 0);
  if (wait > 0) await pause(wait, undefined, { signal });
  if (o.crash === "always" || (o.crash && !existsSync(gate(`crashed-${run}`)))) {
    writeFileSync(gate(`crashed-${run}`), "");
    process.kill(process.pid, "SIGKILL");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
  if ("hold" in o) await passing(o.hold, signal);
  if (attempt <= (o.fail ?? 0) || ("fail_until" in o && !existsSync(gate(o.fail_until)))) throw new Flaky(attempt);
  note("end", run, place, "-", attempt);
  return value;
}

const SAMPLE = {
  int: 2n ** 60n + 1n,
  dec: new Decimal("12.50"),
  bytes: new Uint8Array([0, 255]),
  time: new Date("2026-01-02T03:04:05.250Z"),
  date: new CalendarDate("2026-01-02"),
  uuid: new Uuid("0192f0c1-2345-7abc-8def-0123456789ab"),
  none: null,
  text: "a\0ü",
};
const sample = app.step("sample", () => SAMPLE);

const POLICIES: Record<string, Policy> = {
  thrice: { retry: { maxAttempts: 3, initial: { milliseconds: 1 } } },
  five: { retry: { maxAttempts: 5, initial: { milliseconds: 1 } } },
  backoff: { retry: { maxAttempts: 3, initial: { milliseconds: 2500 }, jitter: false } },
  brief: { timeout: { milliseconds: 200 } },
  once: { atMostOnce: true },
};
const STEPS: Record<string, Step<unknown, any>> = Object.fromEntries(["work", "charge", "ship", ...Object.keys(POLICIES)].map((name) => [name, app.step(name, effect, (POLICIES[name] ?? {}) as any)]));

async function move(execute: (sql: string, ...values: any[]) => Promise<unknown>, { account, amount }: { account: number; amount: number }, step: StepContext): Promise<number> {
  const { run, place, o } = HERE.getStore() as any;
  note("begin", run, place, "tx", step.attempt);
  await execute("insert into moved (run, step, account, amount) values ($1, $2, $3, $4)", run, place, account, amount);
  await execute("update accounts set balance = balance + $1 where id = $2", amount, account);
  if ("hold" in o) await passing(o.hold, step.signal);
  if (o.fail) throw new Flaky(step.attempt);
  note("end", run, place, "-", step.attempt);
  return amount;
}
type Move = { account: number; amount: number };
const pay = app.transaction("pay", (tx, move_: Move, step) => move((sql, ...values) => tx.execute(sql, ...values), move_, step));
const pool = new pg.Pool({ connectionString: CONFIG.user_database, max: 4 }).on("error", () => undefined);
const retry = { maxAttempts: 5, initial: { milliseconds: 10 } };
const payDriver = app.transaction("pay_driver", pgTx(pool), (tx, move_: Move, step) => move((sql, ...values) => tx.query(sql, values), move_, step), { retry });

async function play(run: string, instructions: any[], place = ""): Promise<any[]> {
  const out = [];
  for (const [i, x] of instructions.entries()) out.push(await one(run, x, `${place}${i}`));
  return out;
}
async function recorded(run: string, place: string, o: any, call: () => Promise<any>, detail = "-"): Promise<any> {
  try {
    const value = await HERE.run({ run, place, o }, call);
    note("ack", run, place, detail);
    return value;
  } catch (error) {
    note("nack", run, place);
    throw error;
  }
}

async function one(run: string, x: any[], place: string): Promise<any> {
  const last = x.at(-1);
  const o = x.length > 2 && x[0] !== "build" && typeof last === "object" && last !== null && !Array.isArray(last) ? last : {};
  const [verb, a, b, c] = x;
  switch (verb) {
    case "step":
      return recorded(run, place, o, () => (STEPS[o.as ?? "work"] as any)(a));
    case "tx":
      return recorded(run, place, o, () => (o.driver ? payDriver : pay)({ account: a, amount: b }), "tx");
    case "sample":
      return isDeepStrictEqual(await recorded(run, place, o, sample), SAMPLE);
    case "sleep":
    case "until":
      note("sleep", run, place);
      if (verb === "sleep") await app.sleep({ milliseconds: a });
      else await app.sleepUntil(new Date((await app.now()).getTime() + 1 + a)); // A Date has lost the microseconds.
      note("woke", run, place, a);
      return a;
    case "all":
    case "race":
    case "any":
      return app[verb as "race"](x.slice(1).map((program, i) => () => play(run, program, `${place}/${i}.`)));
    case "map":
      return app.map([...a.entries()], ([i, item]: any) => recorded(run, `${place}/${i}`, o, () => (STEPS["work"] as any)(item)));
    case "gather":
      return Promise.all(x.slice(1).map((each, i) => one(run, each, `${place}.${i}`)));
    case "first": {
      const done: any[] = [];
      await Promise.all(a.map((each: any, i: number) => one(run, each, `${place}.${i}`).then((value) => done.push(value))));
      return done;
    }
    case "child": {
      const id = o.id ?? `${run}/${place}`;
      const child = await interpret.start({ id, program: a }, { id, parentClose: o.policy ?? "cancel" });
      return (o.wait ?? true) ? child.result() : child.key;
    }
    case "send":
      for (;;) {
        try {
          await app.send(a, b, c);
          return true;
        } catch (error) {
          if (!(error instanceof EverstepError && error.code === "run_not_found") || !(o.wait || o.optional)) throw error;
          if (o.optional) return false;
          await app.sleep({ milliseconds: 20 });
        }
      }
    case "receive": {
      const value = await app.receive(a, ms(b));
      note("received", run, place, value ?? "None");
      return value ?? "timeout";
    }
    case "set":
      await app.setEvent(a, b);
      return true;
    case "event":
      return (await app.getEvent(a, b, ms(c))) ?? "timeout";
    case "value": {
      const value = await app[a as "now"]();
      note("value", run, place, value instanceof Timestamp ? value.text : value instanceof Date ? value.toISOString() : value);
      return a;
    }
    case "patch":
      return play(run, app.patch(a) ? b : c, `${place}.`);
    case "build":
      return play(run, a[BUILD], `${place}.`);
    case "try":
      return play(run, a, `${place}.`).catch((error: unknown) => {
        if (error instanceof Flaky) return { error: "flaky", message: error.message, attempt: error.attempt };
        if (error instanceof EverstepError && error.name !== "Cancelled") return { error: error.code };
        throw error;
      });
    case "finally":
      return play(run, a, `${place}.`).finally(() => app.shielded(() => play(run, b, `${place}.f`)));
    case "repeat": {
      const out = [];
      for (let i = 0; i < a; i++) out.push(await play(run, b, `${place}.${i}.`));
      return out;
    }
    case "log":
      app.logger.info(a);
      return a;
    default:
      throw new Error(`unknown instruction ${JSON.stringify(x)}`);
  }
}

type Program = { id: string; program: any[] };
const interpret = app.workflow("interpret", ({ id, program }: Program) => play(id, program));
app.workflow("report", async ({ run, state }: Finished) => {
  note("finished", run, "-", state);
});
if (WITHOUT !== "other") app.workflow("other", ({ id, program }: Program) => play(id, program));

function options(given: object | null | undefined): any {
  const o: any = keys(given ?? {}, (name) => camel(name.replace(/_ms$/, "")));
  for (const name of ["delay", "expires", "deadline"]) if (name in o) o[name] = { milliseconds: o[name] };
  const { dedupKey: key, dedupTtl, dedupScope: scope = span(dedupTtl), dedupPolicy: policy, ...rest } = o;
  return key === undefined ? rest : { ...rest, dedup: { key, ...(scope && { scope }), ...(policy && { policy }) } };
}

async function execute(op: string, { id, timeout_ms, ...c }: any): Promise<unknown> {
  switch (op) {
    case "launch":
      await app.launch();
      return SAID.join("\n");
    case "start": {
      const target = (c.workflow ?? "interpret") === "interpret" ? interpret : app.reference<Program>(c.workflow);
      const run = await target.start({ id, program: c.program }, { id, ...options(c.options) });
      note("accepted", run.key.replaceAll("-", ""), "-");
      return { run: run.key, attached: run.attached };
    }
    case "start_step":
      return ((await STEPS[c.as ?? "work"]?.start(c.value, { id })) as Run<unknown>).key;
    case "start_many": {
      const inputs = Array.from({ length: c.count }, (_, i) => ({ id: `${id}-${i}`, program: c.program }));
      const runs = await interpret.startMany(inputs, { ...options(c.options), id: (given) => given.id });
      for (const run of runs) note("accepted", run.key.replaceAll("-", ""), "-");
      return runs.length;
    }
    case "result": {
      const value = await app.run(id).result(ms(timeout_ms));
      note("result", id, "-", createHash("sha256").update(JSON.stringify(value, (_, item) => (typeof item === "bigint" ? String(item) : item))).digest("hex").slice(0, 16));
      return value;
    }
    case "status":
      return keys(await app.run(id).status(), snake);
    case "steps":
      return (await app.run(id).steps()).map((step) => keys(step, snake));
    case "rewind":
      return app.run(id).rewind(c.seq, { by: "suite", branch: c.branch, newEffects: c.new_effects });
    case "cancel":
    case "resume":
    case "retry":
      return app.run(id)[op]({ by: "suite", ...c });
    case "send":
      return app.send(id, c.topic, c.message, c.idempotency_key ? { idempotencyKey: c.idempotency_key } : {});
    case "event":
      return (await app.getEvent(id, c.key, ms(timeout_ms))) ?? "timeout";
    case "queue": {
      const { name, ...rest } = c;
      return (await app.putQueue(name, keys(rest, camel))).name;
    }
    case "list": {
      const given = Object.fromEntries(Object.entries(keys(c, camel)).filter(([, value]) => value !== null));
      const page = await app.runs(given);
      return { runs: page.items.map((run) => run.key), next: page.next };
    }
    case "adopt":
      return app.adopt();
    case "close":
      return app.close({ grace: { milliseconds: c.deadline_ms } });
    default:
      throw new Error(`unknown command ${op}`);
  }
}

async function answer({ n, op, ...command }: any): Promise<void> {
  let out;
  try {
    out = { ok: (await execute(op, command)) ?? null };
  } catch (error) {
    if (!(error instanceof EverstepError)) console.error(`command ${op}`, error);
    const { code, name, message } = error as EverstepError;
    out = { error: { code: error instanceof EverstepError ? code : name, message: `${name}: ${message}` } };
  }
  const text = JSON.stringify({ n, ...out }, (_, value) => (typeof value === "bigint" ? `\0${value}` : value));
  writeSync(1, `${text.replace(/"\\u0000(-?\d+)"/g, "$1")}\n`);
}

const BIG = /([[:,]\s*)(-?\d{16,})(?=\s*[,\]}])/g; // whole numbers that JSON.parse would round
const SAID: string[] = [];
setLogger((level, message, fields) => {
  SAID.push(message);
  if ("replaying" in fields) note("line", String(fields["run"]), "-", message);
  if (level !== "debug") console.error(new Date().toISOString(), level, message, JSON.stringify(fields), fields["error"] ?? "");
});
createInterface({ input: process.stdin, crlfDelay: Infinity }).on("line", (line) => {
  const command = JSON.parse(line.replace(BIG, '$1"\\u0000$2"'), (_, value) => (typeof value === "string" && value.startsWith("\0") ? BigInt(value.slice(1)) : value));
  void answer(command).then(() => command.op === "close" && process.exit(0));
});
