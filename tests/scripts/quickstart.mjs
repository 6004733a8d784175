// The program of the package's README from the tarballs alone: an empty folder, the kill, the second process, and the demo. `quickstart.mjs TARBALL..`
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const readme = readFileSync(new URL("../../bindings-node/README.md", import.meta.url), "utf8");
const block = (language, holds) => [...readme.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\``, "gm"))].map((found) => found[1]).find((text) => text.includes(holds));

/** Lines with process numbers replaced by the order of their first appearance. */
function shape(text) {
  const seen = new Map();
  return text.trim().replace(/(?<=process )\d+/g, (number) => seen.get(number) ?? seen.set(number, String.fromCharCode(65 + seen.size)).get(number));
}

const program = block("js", "app.workflow");
const shown = block("console", "ship.mjs").split("$ ").at(-1);
const wanted = shape(shown.slice(shown.indexOf("\n") + 1));
const folder = mkdtempSync(join(tmpdir(), "everstep-quickstart-"));
try {
  writeFileSync(join(folder, "package.json"), '{ "private": true }\n');
  // The root README's command. No compiler and no registry: what the tarballs hold must do.
  const root = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const install = /^npm install .*$/m.exec(root)[0].replace("$EVERSTEP/target", resolve(dirname(process.argv[2]), ".."));
  const quiet = { npm_config_offline: "true", npm_config_audit: "false", npm_config_fund: "false", npm_config_loglevel: "silent" };
  execFileSync("sh", ["-c", install], { cwd: folder, stdio: "inherit", env: { ...process.env, ...quiet } });
  writeFileSync(join(folder, "ship.mjs"), program);
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("EVERSTEP_")));
  const run = (command, ...args) => spawnSync(command, args, { cwd: folder, env: environment, encoding: "utf8", timeout: 120_000 });

  const first = run(process.execPath, "ship.mjs", "order-7", "paper");
  if (first.signal !== "SIGKILL") throw new Error(`the first process was not killed: ${first.status} ${first.stdout} ${first.stderr}`);
  const second = run(process.execPath, "ship.mjs", "order-7");
  console.log(second.stdout, second.stderr);
  if (second.status !== 0 || shape(second.stdout) !== wanted) throw new Error(`wanted\n${wanted}\ngot\n${shape(second.stdout)} (exit code ${second.status})`);

  writeFileSync(join(folder, "common.cjs"), 'const { Everstep } = require("everstep"); console.log(typeof Everstep, typeof new Everstep("sqlite:a.db").migrationSql("sqlite"));');
  const common = run(process.execPath, "common.cjs");
  if (common.stdout !== "function string\n") throw new Error(`CommonJS: ${common.stdout} ${common.stderr}`);

  const demo = run("npx", "--offline", "everstep", "demo");
  console.log(demo.stdout, demo.stderr);
  if (demo.status !== 0) throw new Error(`the demo ended with ${demo.status}`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
