// `test.mjs [NAME..]`: builds the tests beside the package, so that they import it by its name, and runs those whose file name contains a NAME.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const names = process.argv.slice(2);
const files = readdirSync(`${root}test`).filter((file) => file.endsWith(".ts") && !file.endsWith(".types.ts"));
rmSync(`${root}build`, { recursive: true, force: true });
await build({
  entryPoints: files.map((file) => `${root}test/${file}`),
  outdir: `${root}build`,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  packages: "external",
  platform: "node",
  format: "esm",
  target: "node20",
  banner: { js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url); const __dirname = import.meta.dirname; const __filename = import.meta.filename;' },
  logLevel: "warning",
});
const chosen = files.filter((file) => file.endsWith(".test.ts") && (names.length === 0 || names.some((name) => file.includes(name))));
const ran = spawnSync(process.execPath, ["--test", "--test-reporter=spec", ...chosen.map((file) => `${root}build/${file.replace(/\.ts$/, ".mjs")}`)], {
  stdio: "inherit",
  cwd: root,
  env: { ...process.env, EVERSTEP_ROOT: fileURLToPath(new URL("../..", import.meta.url)) },
});
process.exit(ran.status ?? 1);
