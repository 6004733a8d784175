/** Finds and loads the native part: the package of this platform, installed beside this one. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isAbsolute, resolve } from "node:path";
import type { Native } from "../native.js";
import { ConfigInvalid, InternalError } from "./errors_gen.js";

/** Where this package's code is; a bundle as an ES module does not know, and does not need to. */
export const PACKAGE_FOLDER = typeof __dirname === "string" ? __dirname : undefined;

/** Of the border this package was generated for. */
const ABI = 1;

function platform(): string {
  const { platform, arch } = process;
  if (platform !== "linux") return `${platform}-${arch}`;
  return `${platform}-${arch}-${isMusl() ? "musl" : "gnu"}`;
}

/** Which C library this process has. What is mapped says so; the report does, too, and costs a megabyte. */
function isMusl(): boolean {
  try {
    return readFileSync("/proc/self/maps", "latin1").includes("/ld-musl-");
  } catch {
    const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
    return report.header?.glibcVersionRuntime === undefined;
  }
}

/** Places to look from: this file, and, for a bundle that left the package behind, the program and where it was started. */
function bases(): string[] {
  const out = [typeof __filename === "string" ? __filename : undefined, process.argv[1], resolve(process.cwd(), "index.js")];
  return out.filter((base): base is string => base !== undefined && isAbsolute(base));
}

function load(): Native {
  const named = process.env["EVERSTEP_NATIVE"];
  if (named !== undefined && named !== "") return createRequire(resolve(process.cwd(), "index.js"))(resolve(named)) as Native;
  const name = `everstep-${platform()}`;
  for (const base of bases()) {
    const require = createRequire(base);
    try {
      require.resolve(name);
    } catch {
      continue;
    }
    return require(name) as Native;
  }
  throw new ConfigInvalid(
    `the package ${name} is not installed beside everstep. It is an optional dependency: install without --omit=optional, on the platform that runs the program; ` +
      "a bundle needs it in a node_modules folder it can see",
  );
}

let loaded: Native | undefined;

/** Loaded on first use: importing the package opens nothing. */
export function native(): Native {
  if (loaded === undefined) {
    const found = load();
    if (found.abi() !== ABI) throw new InternalError(`the native part speaks border ${String(found.abi())}, this package ${String(ABI)}: install the same version of both`);
    loaded = found;
  }
  return loaded;
}
