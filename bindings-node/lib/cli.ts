#!/usr/bin/env node
/** `npx everstep`: the demo, and a look at runs from the shell. */

import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { Everstep } from "./app.js";
import { demo, worker } from "./demo.js";
import { EverstepError } from "./error_base.js";
import type { Run } from "./run.js";
import type { RunInfo, State } from "./runs.js";

const USAGE = `everstep demo                              a checkout whose process is killed in step four, and finished by another
everstep runs [--state S] [--workflow W] [--limit N]   runs, newest first
everstep run ID [--key]                    one run with its steps; --key: ID is the run's key
everstep cancel ID [--why TEXT] [--key]    ask a run to cancel
The last three take --database URL; default: EVERSTEP_DATABASE_URL.`;

function parsed(): { values: Record<string, string | boolean | undefined>; positionals: string[] } {
  const text = { type: "string" } as const;
  const options = { database: text, state: text, workflow: text, limit: text, why: text, worker: text, key: { type: "boolean" }, help: { type: "boolean" } } as const;
  return parseArgs({ allowPositionals: true, options });
}

type Values = ReturnType<typeof parsed>["values"];

function text(values: Values, name: string): string | undefined {
  const value = values[name];
  return typeof value === "string" ? value : undefined;
}

/** The SQLite file that is named and not there: connecting would make it, and a mistyped name would show an empty database. */
function missingFile(database: string | undefined): string | undefined {
  const named = [database, process.env["EVERSTEP_DATABASE_URL"], "everstep.db"].find((text) => text !== undefined && text !== "") ?? "";
  if (/^postgres(ql)?:/.test(named)) return undefined;
  const file = named.replace(/^sqlite:(\/\/)?/, "").replace(/\?.*$/, "");
  return existsSync(file) ? undefined : file;
}

async function runs(app: Everstep, values: Values): Promise<void> {
  const [states, workflow] = [text(values, "state") as State | undefined, text(values, "workflow")];
  const limit = Number(text(values, "limit") ?? 50);
  const page = await app.runs({ limit, ...(states !== undefined && { states }), ...(workflow !== undefined && { workflow }) });
  for (const run of page.items) {
    const waits = run.waitsFor.length > 0 ? `  waits for ${run.waitsFor.join("; ")}` : "";
    console.log(`${run.key}  ${run.state.padEnd(10)} ${run.workflow.padEnd(24)} ${run.createdAt.toISOString().slice(0, 19)}  ${run.id ?? ""}${waits}`);
  }
  if (page.next !== null) console.log("... more: --limit");
}

const SHOWN: readonly (keyof RunInfo)[] = ["key", "id", "workflow", "state", "queue", "attempt", "ownerHost", "ownerPid", "createdAt", "finishedAt", "errorType", "errorMessage", "blockedWhy"];

async function one(run: Run<unknown>): Promise<void> {
  const info = await run.status();
  for (const name of SHOWN) {
    const value = info[name];
    if (typeof value === "string" || typeof value === "number" || value instanceof Date) console.log(`${name.padEnd(12)} ${value instanceof Date ? value.toISOString() : value}`);
  }
  for (const wait of info.waitsFor) console.log(`${"waits for".padEnd(12)} ${wait}`);
  for (const step of await run.steps()) {
    const place = `${step.branch}/${String(step.seq).padEnd(4)}`;
    console.log(`  ${place} ${step.kind.padEnd(12)} ${step.name.padEnd(24)} ${(step.failed ? "failed" : "ok").padEnd(7)} attempt ${String(step.attempt)}  ${step.location}`);
  }
}

async function main(): Promise<number> {
  const { values, positionals } = parsed();
  const [command, id] = positionals;
  if (command === "demo") {
    const folder = text(values, "worker");
    if (folder === undefined) return demo(__filename);
    await worker(folder);
    return 0;
  }
  if (values["help"] === true || !["runs", "run", "cancel"].includes(command ?? "") || (command !== "runs" && id === undefined)) {
    console.error(USAGE);
    return values["help"] === true ? 0 : 2;
  }
  const database = text(values, "database");
  const missing = missingFile(database);
  if (missing !== undefined) {
    console.error(`[config_invalid] there is no database file ${JSON.stringify(missing)}: name another with --database, or EVERSTEP_DATABASE_URL`);
    return 1;
  }
  // Looking changes nothing: a mistyped URL must not leave tables in somebody's database.
  const app = new Everstep({ role: "client", autoMigrate: false, ...(database !== undefined && { database }) });
  try {
    const run = (): Run<unknown> => app.run(values["key"] === true ? { key: id ?? "" } : (id ?? ""));
    if (command === "runs") await runs(app, values);
    else if (command === "run") await one(run());
    else console.log(await run().cancel({ by: "command line", why: text(values, "why") ?? "asked from the command line" }));
    return 0;
  } finally {
    await app.close();
  }
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(error instanceof EverstepError ? `${error.name} [${error.code}]: ${error.message}` : error instanceof Error ? error.message : error);
    process.exitCode = 1;
  },
);
