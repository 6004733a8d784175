/** Every example runs and prints what its last comment says; the command line looks at what they left. */

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { build } from "esbuild";
import { child } from "./stage.js";

const ROOT = join(__dirname, "..");
const EXAMPLES = readdirSync(join(ROOT, "examples")).filter((file) => file.endsWith(".ts"));
const CLI = join(ROOT, "dist/cli.js");

describe("examples", () => {
  const folder = mkdtempSync(join(tmpdir(), "everstep-examples-"));
  after(() => {
    rmSync(folder, { recursive: true });
  });

  for (const file of EXAMPLES) {
    it(file, async () => {
      const text = readFileSync(join(ROOT, "examples", file), "utf8");
      const wanted = text.slice(text.indexOf("// Output:\n") + 11).replace(/^\/\/ /gm, "");
      assert.ok(text.includes("// Output:\n"), "an example ends with its output");
      const program = join(ROOT, "build/examples", file.replace(".ts", ".cjs"));
      await build({ entryPoints: [join(ROOT, "examples", file)], outfile: program, bundle: true, packages: "external", platform: "node", format: "cjs", target: "node20", logLevel: "error" });
      const done = await child(program, [], { cwd: folder });
      assert.equal(done.code, 0, done.stderr);
      assert.equal(done.stdout, wanted);
    });
  }

  it("the command line", async () => {
    const everstep = async (...words: string[]): Promise<string> => {
      const done = await child(CLI, [...words, "--database", "sqlite:quickstart.db"], { cwd: folder });
      assert.equal(done.code, 0, done.stderr);
      return done.stdout;
    };
    assert.match(await everstep("runs", "--state", "succeeded"), /order-1/);
    assert.match(await everstep("run", "order-1"), /reserve/);
    assert.equal(await everstep("cancel", "order-1"), "already_finished\n");
    const wrong = await child(CLI, ["run", "nobody", "--database", "sqlite:quickstart.db"], { cwd: folder });
    assert.equal(wrong.code, 1);
    assert.match(wrong.stderr, /RunNotFound \[run_not_found\]/);
    assert.equal((await child(CLI, [])).code, 2);
  });

  it("looking makes no database", async () => {
    const empty = mkdtempSync(join(folder, "typo-"));
    for (const [command, database] of [["runs", "sqlite:typo.db"], ["run", "typo.db"], ["cancel", "sqlite://typo.db"]] as const) {
      const done = await child(CLI, [command, "order-1", "--database", database], { cwd: empty });
      assert.equal(done.code, 1);
      assert.match(done.stderr, /no database file "typo\.db"/);
    }
    assert.deepEqual(readdirSync(empty), []);
  });

  it("the demo", async () => {
    const done = await child(CLI, ["demo"], { cwd: folder });
    assert.equal(done.code, 0, done.stdout + done.stderr);
    assert.match(done.stdout, /steps one to three ran once/);
  });
});
