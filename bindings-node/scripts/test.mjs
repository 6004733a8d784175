// `test.mjs [NAME..]`: builds the tests beside the package, so that they import it by its name, and runs those whose file name contains a NAME.
import { build } from "esbuild";
import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const names = process.argv.slice(2);
const files = readdirSync(`${root}test`).filter((file) => file.endsWith(".ts") && !file.endsWith(".types.ts"));
rmSync(`${root}build`, { recursive: true, force: true });
// Prisma would fetch an engine that only its migrations use; what it generates is run by what npm has installed.
const prisma = fileURLToPath(new URL("../node_modules/prisma/build/index.js", import.meta.url));
execFileSync(process.execPath, [prisma, "generate", "--schema", `${root}test/prisma/schema.prisma`], {
  cwd: root,
  stdio: ["ignore", "ignore", "inherit"],
  env: { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: "1" },
});
await build({
  entryPoints: [...files.map((file) => ({ in: `${root}test/${file}`, out: file.replace(/\.ts$/, "") })), { in: `${root}build/prisma/client.ts`, out: "prisma_client" }],
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
// The native part as it was packed (tests/scripts/node.sh), unless another one is named.
const packed = `${root}../target/node/installed/node_modules`;
const binary = readdirSync(packed).find((name) => name.startsWith("everstep-"));
const native = process.env.EVERSTEP_NATIVE ?? `${packed}/${binary}/${readdirSync(`${packed}/${binary}`).find((file) => file.endsWith(".node"))}`;
const ran = spawnSync(process.execPath, ["--test", "--test-reporter=spec", ...chosen.map((file) => `${root}build/${file.replace(/\.ts$/, ".mjs")}`)], {
  stdio: ["ignore", "pipe", "inherit"],
  cwd: root,
  maxBuffer: 1 << 28,
  encoding: "utf8",
  env: { ...process.env, EVERSTEP_NATIVE: native, EVERSTEP_ROOT: fileURLToPath(new URL("../..", import.meta.url)) },
});
const count = (word) => Number(new RegExp(`^\\S+ ${word} (\\d+)$`, "m").exec(ran.stdout)?.[1] ?? 0);
console.log(ran.stdout);
console.log(`${count("pass")} passed, ${count("fail") + count("cancelled")} failed, ${count("skipped") + count("todo")} skipped`);
process.exit(ran.status ?? 1);
