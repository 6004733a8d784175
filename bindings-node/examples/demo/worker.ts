/** One worker of the demo: the program of `bindings-python/examples/demo/app.py` in TypeScript. It works until it is told to stop; either language finishes the other's runs. */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Everstep } from "everstep";

const { DEMO_DATABASE, DEMO_PROVIDER_PORT = "0" } = process.env;

interface Counted {
  sha256: string;
  lines: number;
  tokens: number;
}

const app = new Everstep(DEMO_DATABASE === undefined ? {} : { database: DEMO_DATABASE });
app.queue("files");

const NEWLINE = 0x0a;

function isWord(byte: number): boolean {
  return (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5a) || byte === 0x5f || (byte >= 0x61 && byte <= 0x7a);
}

const countFile = app.step("count_file", async (path: string): Promise<Counted> => {
  const data = await readFile(path);
  let lines = 0;
  let tokens = 0;
  let inside = false;
  for (const byte of data) {
    const word = isWord(byte);
    if (byte === NEWLINE) lines++;
    if (word && !inside) tokens++;
    inside = word;
  }
  return { sha256: createHash("sha256").update(data).digest("hex"), lines, tokens };
});

const addToTotal = app.transaction("add_to_total", async (tx, { path, lines, tokens }: { path: string; lines: number; tokens: number }) => {
  // It adds on purpose: done twice, the total is wrong.
  await tx.execute("update total set files = files + 1, lines = lines + $1, tokens = tokens + $2", lines, tokens);
  await tx.execute("insert into seen values ($1, 1) on conflict (path) do update set times = times + 1", path);
});

const tellProvider = app.step("tell_provider", async (path: string, step): Promise<string> => {
  // A request as to any paid service: the key tells the other side that a repeat is a repeat.
  const answer = await fetch(`http://127.0.0.1:${DEMO_PROVIDER_PORT}/`, {
    method: "POST",
    body: path,
    headers: { "Idempotency-Key": step.idempotencyKey },
    signal: step.signal,
  });
  const body = await answer.text();
  if (!answer.ok) throw new Error(`the provider answered ${answer.status}: ${body}`);
  return body;
});

app.workflow("process", async (path: string): Promise<string> => {
  const { lines, tokens } = await countFile(path);
  await addToTotal({ path, lines, tokens });
  return tellProvider(path);
});

void app.serve();
