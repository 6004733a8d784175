/** Databases for tests: SQLite files, a private PostgreSQL for one test process (or EVERSTEP_TEST_PG), and replay before every step. */

import { execFileSync, spawn } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe } from "node:test";
import { Everstep, type EverstepOptions } from "everstep";

export interface Stage {
  readonly store: "sqlite" | "postgres" | "replayed";
  /** Options of an engine on this stage's database; `more` wins. */
  engine(more?: EverstepOptions): Everstep;
  /** A database of its own, for children and drivers. */
  readonly url: string;
  readonly folder: string;
}

const ROOT = process.getuid?.() === 0;

function postgresUser(): { uid: number; gid: number } | undefined {
  if (!ROOT) return undefined;
  // PostgreSQL does not run as root.
  const line = readFileSync("/etc/passwd", "utf8").split("\n").find((entry) => /^(postgres|nobody):/.test(entry));
  const [, , uid, gid] = (line ?? "").split(":");
  return { uid: Number(uid), gid: Number(gid) };
}

function binaries(): string {
  const root = "/usr/lib/postgresql";
  const [newest] = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  return process.env["EVERSTEP_PG_BIN"] ?? (newest === undefined ? "" : join(root, newest, "bin"));
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

export interface Postgres {
  url(database?: string): string;
  stop(): void;
}

/** `password`: of the superuser `everstep`; without one nobody is asked. */
export async function startPostgres(password?: string): Promise<Postgres> {
  const given = process.env["EVERSTEP_TEST_PG"];
  if (given !== undefined && password === undefined) return { url: (database) => (database === undefined ? given : given.replace(/\/[^/]*$/, `/${database}`)), stop: () => undefined };
  const folder = mkdtempSync(join(tmpdir(), "everstep-node-pg-"));
  const user = postgresUser();
  if (user !== undefined) chownSync(folder, user.uid, user.gid);
  const port = await freePort();
  const run = (program: string, ...args: string[]): void => {
    execFileSync(join(binaries(), program), args, { ...user, cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
  };
  const data = join(folder, "db");
  const asked = join(folder, "password");
  if (password !== undefined) writeFileSync(asked, password, { mode: 0o644 });
  run("initdb", "-D", data, "-U", "everstep", ...(password === undefined ? ["--auth=trust"] : ["--auth=scram-sha-256", `--pwfile=${asked}`]), "--no-sync");
  const options = `-p ${port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=${folder} -c max_connections=200`;
  run("pg_ctl", "-D", data, "-w", "-l", join(folder, "log"), "-o", options, "start");
  return {
    url: (database = "postgres") => `postgresql://everstep${password === undefined ? "" : `:${password}`}@127.0.0.1:${port}/${database}`,
    stop: () => {
      run("pg_ctl", "-D", data, "-m", "immediate", "stop");
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The same tests on every store. `replayed`: runs are released at every wait and replayed before every step, so each test is a test of replay too. */
export function onEveryStore(name: string, tests: (stage: Stage) => void, stores: readonly Stage["store"][] = ["sqlite", "replayed", "postgres"]): void {
  for (const store of stores) {
    describe(`${name} (${store})`, () => {
      const folder = mkdtempSync(join(tmpdir(), "everstep-node-"));
      const engines: Everstep[] = [];
      let postgres: Postgres | undefined;
      let number = 0;
      const stage = {
        store,
        folder,
        url: "",
        engine(more: EverstepOptions = {}): Everstep {
          const schema = `t${process.pid}_${++number}`;
          const own: EverstepOptions = store === "postgres" ? { database: stage.url, schema } : { database: stage.url || `sqlite:${join(folder, `${number}.db`)}` };
          const app = new Everstep({ autoMigrate: true, ...own, ...(store === "replayed" && { replay: "always" }), ...more });
          engines.push(app);
          return app;
        },
      };
      before(async () => {
        if (store === "postgres") {
          postgres = await startPostgres();
          stage.url = postgres.url();
        }
      });
      after(async () => {
        for (const app of engines) await app.close({ grace: { milliseconds: 0 } });
        postgres?.stop();
        rmSync(folder, { recursive: true, force: true });
      });
      tests(stage);
    });
  }
}

export interface Child {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A program of its own. `until`: it is killed once its output contains this. */
export function child(file: string, args: readonly string[], options: { env?: NodeJS.ProcessEnv; cwd?: string; until?: string } = {}): Promise<Child> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...options.env }, cwd: options.cwd });
    let stdout = "";
    let stderr = "";
    running.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (options.until !== undefined && stdout.includes(options.until)) running.kill("SIGKILL");
    });
    running.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    running.once("error", reject);
    running.once("close", (code, signal) => {
      resolve({ code, signal, stdout, stderr });
    });
  });
}

/** Waits for a condition, never for a time. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`never came: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
