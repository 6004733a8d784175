// `pack.mjs OUT LIBRARY`: the two packages as they would be published, packed into OUT: the main one, and the binary of this platform.
import { execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const [out, library] = process.argv.slice(2).map((argument) => resolve(argument));
const root = fileURLToPath(new URL("..", import.meta.url));
const main = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const report = process.report.getReport();
const libc = process.platform === "linux" ? (report.header.glibcVersionRuntime === undefined ? "musl" : "glibc") : undefined;
const triple = [process.platform, process.arch, ...(libc === undefined ? [] : [libc === "glibc" ? "gnu" : "musl"])].join("-");
const name = `everstep-${triple}`;
const file = `everstep.${triple}.node`;

function pack(folder, manifest) {
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  copyFileSync(join(root, "../LICENSE"), join(folder, "LICENSE"));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", out], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const work = mkdtempSync(join(tmpdir(), "everstep-pack-"));
try {
  const binary = join(work, "binary");
  mkdirSync(binary);
  copyFileSync(library, join(binary, file));
  writeFileSync(join(binary, "README.md"), `The native part of the package \`everstep\` for ${triple}. Install that one.\n`);
  const { version, license, repository, engines } = main;
  pack(binary, {
    name,
    version,
    description: `The native part of everstep for ${triple}`,
    license,
    repository,
    engines,
    main: file,
    files: [file],
    os: [process.platform],
    cpu: [process.arch],
    ...(libc === undefined ? {} : { libc: [libc] }),
  });

  const package_ = join(work, "main");
  mkdirSync(package_);
  cpSync(join(root, "dist"), join(package_, "dist"), { recursive: true });
  for (const file of ["README.md", "native.d.ts"]) copyFileSync(join(root, file), join(package_, file));
  const { devDependencies: _, scripts: __, ...published } = main;
  pack(package_, { ...published, optionalDependencies: { [name]: version } });
} finally {
  rmSync(work, { recursive: true, force: true });
}
