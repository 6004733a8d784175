// Builds dist: CommonJS from the compiler, and an ES module beside it that hands out the same objects. Two builds of the code would be two engines' worth of
// classes in a program that reaches the package both ways, and `instanceof` would answer no.
import { execFileSync } from "node:child_process";
import { copyFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);

process.chdir(root);
rmSync("dist", { recursive: true, force: true });
const found = require.resolve("typescript/package.json").replace(/package\.json$/, "bin/tsc");
execFileSync(process.execPath, [found, "-p", "tsconfig.json"], { stdio: "inherit" });
const names = Object.keys(require("../dist/index.js")).filter((name) => name !== "__esModule");
writeFileSync("dist/index.mjs", `export { ${names.sort().join(", ")} } from "./index.js";\n`);
copyFileSync("dist/index.d.ts", "dist/index.d.mts");
