/** Processes that are killed, that exit, that forget to close; builds that are minified. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { type BuildOptions, build } from "esbuild";
import { Everstep, setLogger } from "everstep";
import { child, until } from "./stage.js";

const PROGRAM = join(__dirname, "program.mjs");
const RESULT = 'result [60,"ink",[2,4]]\n';

describe("processes", () => {
  const folder = mkdtempSync(join(tmpdir(), "everstep-processes-"));
  let number = 0;
  const database = (): string => `sqlite:${join(folder, `${++number}.db`)}`;
  after(() => {
    rmSync(folder, { recursive: true });
  });

  it("a killed process's run goes on in the next, behind the last recorded step", async () => {
    const url = database();
    const first = await child(PROGRAM, ["stall", url], { until: "step 2" });
    assert.equal(first.signal, "SIGKILL");
    const second = await child(PROGRAM, ["run", url]);
    assert.equal(second.code, 0, second.stderr);
    assert.equal(second.stdout, `step 2 attempt 1\nstep 3 attempt 1\n${RESULT}`);
  });

  it("a minified bundle recovers the run of the unminified build, and its errors by class", async () => {
    const url = database();
    const source = join(__dirname, "../test/program.ts");
    const options = { entryPoints: [source], bundle: true, minify: true, platform: "node", target: "node20", logLevel: "error" } satisfies BuildOptions;
    const minified = join(__dirname, "program.min.cjs");
    await build({ ...options, outfile: minified, format: "cjs" });
    await child(PROGRAM, ["stall", url], { until: "step 2" });
    const second = await child(minified, ["run", url]);
    assert.equal(second.code, 0, second.stderr);
    assert.equal(second.stdout, `step 2 attempt 1\nstep 3 attempt 1\n${RESULT}`);
    // As an ES module, with what esbuild asks of every bundle of CommonJS that uses Node's own modules.
    const module_ = join(__dirname, "program.min.mjs");
    await build({ ...options, outfile: module_, format: "esm", banner: { js: 'import{createRequire as __r}from"node:module";const require=__r(import.meta.url);' } });
    const third = await child(module_, ["run", database()]);
    assert.ok(third.stdout.endsWith(RESULT), third.stdout + third.stderr);
  });

  it("process.exit in a step is a crash: the run goes on elsewhere, and after five without progress it is blocked", async () => {
    const url = database();
    const first = await child(PROGRAM, ["exit", url]);
    assert.equal(first.code, 7, first.stderr);
    const second = await child(PROGRAM, ["run", url]);
    assert.equal(second.stdout, `step 2 attempt 1\nstep 3 attempt 1\n${RESULT}`);
  });

  it("a script that forgets close() ends when nothing is pending", async () => {
    const idle = await child(PROGRAM, ["idle", database()]);
    assert.deepEqual([idle.code, idle.stdout], [0, "launched\n"], idle.stderr);
    const url = database();
    const unawaited = await child(PROGRAM, ["unawaited", url]);
    assert.equal(unawaited.code, 0, unawaited.stderr);
    const client = new Everstep({ database: url, role: "client" });
    // What the process had started it has also finished.
    assert.equal((await client.run("unawaited").status()).state, "succeeded");
    await client.close();
  });

  it("a cancel while several calls are open ends their run, not the process", async () => {
    const { code, stdout, stderr } = await child(PROGRAM, ["cancel", database()]);
    assert.deepEqual([code, stdout], [0, "run_cancelled\nstep 0 attempt 1\nstep 1 attempt 1\nresult 10\n"], stderr);
  });

  it("runs that leave the losers of a race behind hold nothing: the process ends", async () => {
    const { code, stdout, stderr } = await child(PROGRAM, ["raced", database()]);
    assert.deepEqual([code, stdout], [0, "result 1000\n"], stderr);
  });

  it("serve works until SIGTERM, then drains", async () => {
    const url = database();
    const running = spawn(process.execPath, [PROGRAM, "serve", url], { stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    running.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
    const exit = new Promise((resolve) => running.once("close", (code, signal) => { resolve(code ?? signal); }));
    await until(() => said.includes("serving"), "the worker");
    const client = new Everstep({ database: url, role: "client", autoMigrate: true });
    const wf = client.reference<number>("wf");
    await until(async () => (await client.queues()).some((queue) => queue.name === "jobs"), "the queue");
    const run = await wf.start(1, { queue: "jobs" });
    assert.deepEqual(await run.result({ timeout: { seconds: 30 } }), [0, "ink", [2, 4]]);
    running.kill("SIGTERM");
    assert.equal(await exit, 0);
    assert.ok(said.endsWith("served\n"), said);
    await client.close();
  });

  it("replayed lines are dropped", async () => {
    const lines: string[] = [];
    setLogger((level, message, fields) => {
      if (fields["workflow"] === "wf") lines.push(`${level} ${message} ${String(fields["step"])} ${String(fields["replaying"])}`);
    });
    const app = new Everstep({ database: database(), replay: "always" });
    const step = app.step("step", async (n: number) => {
      app.logger.info(`in ${n}`);
      return n;
    });
    const wf = app.workflow("wf", async (_: number, ctx) => {
      ctx.logger.info("begins");
      await step(1);
      await ctx.sleep({ milliseconds: 1 });
      ctx.logger.info("woke");
      return step(2);
    });
    await app.launch();
    await (await wf.start(1)).result();
    await app.close();
    setLogger();
    assert.deepEqual(lines, ["info begins undefined false", "info in 1 step false", "info woke undefined false", "info in 2 step false"]);
  });
});
