/** What a person must put right: typed errors with a stable code that say what to do, and never show a password. */

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { inspect } from "node:util";
import { Client } from "pg";
import { Everstep, EverstepError, type EverstepOptions, NoDatabase, SetupError, setLogger } from "everstep";
import { type Postgres, child, freePort, onEveryStore, startPostgres } from "./stage.js";

const SECRET = "hunter2-correct-horse";
const SOON = { timeout: { seconds: 20 } };

/** The error of launching; neither it, nor what caused it, nor the log, nor the engine shown as a developer would, holds the secret. */
async function refused(options: EverstepOptions | string): Promise<EverstepError> {
  const told: string[] = [];
  setLogger((level, message, fields) => told.push(level, message, inspect(fields, { depth: 9 })));
  const app = new Everstep(options);
  try {
    await app.launch();
  } catch (error) {
    assert.ok(error instanceof EverstepError, inspect(error));
    told.push(inspect(error, { depth: 9, showHidden: true }), inspect(app, { depth: 9 }), JSON.stringify(app), JSON.stringify(error), String(error.stack));
    assert.ok(!told.join("\n").includes(SECRET), told.join("\n"));
    return error;
  } finally {
    await app.close();
    setLogger();
  }
  throw new assert.AssertionError({ message: "the launch was not refused" });
}

describe("a PostgreSQL that asks for passwords", () => {
  let server: Postgres;
  before(async () => {
    server = await startPostgres(SECRET);
    await as("postgres", `create role reader superuser login password '${SECRET}'`, "alter role reader set default_transaction_read_only = on", `create role limited login password '${SECRET}'`);
  });
  after(() => {
    server.stop();
  });

  async function as(database: string, ...statements: string[]): Promise<void> {
    const client = new Client({ connectionString: server.url(database) });
    await client.connect();
    for (const statement of statements) await client.query(statement);
    await client.end();
  }

  /** An empty database. */
  async function place(name: string): Promise<string> {
    await as("postgres", `create database ${name}`);
    return server.url(name);
  }

  it("a wrong password", async () => {
    const error = await refused(server.url().replace(SECRET, `wrong-${SECRET}`));
    assert.equal(error.code, "database_auth");
    assert.match(error.message, /password|credentials/i);
    assert.equal((await refused(server.url().replace("everstep:", "nobody:"))).code, "database_auth");
    // A client finds out at its first call.
    const client = new Everstep({ database: server.url().replace(SECRET, "wrong"), role: "client" });
    await assert.rejects(client.runs(), { code: "database_auth" });
    await client.close();
  });

  it("a database that is not there", async () => {
    const error = await refused(server.url("nowhere"));
    assert.ok(error instanceof SetupError && error.message.includes("nowhere"), error.message);
  });

  it("a read-only server", async () => {
    const error = await refused({ database: server.url().replace("everstep:", "reader:"), autoMigrate: true });
    assert.equal(error.code, "database_read_only");
    assert.match(error.message, /primary/);
  });

  it("a role that may not migrate, until its owner has", async () => {
    const url = await place("limited_place");
    const limited = url.replace("everstep:", "limited:");
    const error = await refused(limited);
    assert.equal(error.code, "no_ddl_right");
    assert.match(error.message, /migration_?sql/i);
    const owner = new Everstep(url);
    await owner.launch();
    await owner.close();
    await as("limited_place", "grant usage on schema everstep to limited", "grant select, insert, update, delete on all tables in schema everstep to limited");
    const app = new Everstep(limited);
    const work = app.workflow("work", async () => 1);
    await app.launch();
    assert.equal(await (await work.start()).result(SOON), 1);
    await app.close();
  });

  it("a database with other data is migrated only when asked", async () => {
    const url = await place("theirs");
    await as("theirs", "create table theirs (n int)");
    assert.equal((await refused(url)).code, "migration_needed");
    const app = new Everstep(url);
    assert.ok((await app.migrate()) > 0);
    await app.launch();
    await app.close();
  });

  it("looking from the command line leaves an empty database empty", async () => {
    const url = await place("looked_at");
    const looked = await child(join(__dirname, "../dist/cli.js"), ["runs", "--database", url]);
    assert.equal(looked.code, 1);
    assert.match(looked.stderr, /migration_needed/);
    const client = new Client({ connectionString: url });
    await client.connect();
    assert.deepEqual((await client.query("select nspname from pg_namespace where nspname = 'everstep'")).rows, []);
    await client.end();
  });

  it("asynchronous commit", async () => {
    const url = await place("forgetful");
    await as("forgetful", "alter database forgetful set synchronous_commit = off");
    const error = await refused(url);
    assert.equal(error.code, "database_not_durable");
    assert.match(error.message, /synchronous_commit/);
  });

  it("several engines migrate an empty database at once", async () => {
    const url = await place("crowded");
    const apps = Array.from({ length: 5 }, () => new Everstep(url));
    await Promise.all(apps.map((app) => app.launch()));
    await Promise.all(apps.map((app) => app.close()));
  });

  it("a copied database is held until it is adopted", async () => {
    const url = await place("original");
    const original = new Everstep(url);
    await original.launch();
    await original.close();
    await as("postgres", "create database the_copy template original");
    const told: string[] = [];
    setLogger((_, message) => told.push(message));
    const app = new Everstep(server.url("the_copy"));
    const work = app.workflow("work", async () => 1);
    await app.launch();
    assert.ok(told.some((text) => text.includes("copy")), told.join("\n"));
    setLogger();
    const run = await work.start();
    await assert.rejects(run.result({ timeout: { milliseconds: 300 } }), { code: "result_timeout", message: /copy/ });
    await app.adopt();
    assert.equal(await run.result(SOON), 1);
    await app.close();
  });
});

describe("a place that is no database", () => {
  for (const url of [`postgresql://user:${SECRET}@127.0.0.1:notaport/db`, `postgresql://user:${SECRET}@[::bad/db`, `mysql://root:${SECRET}@localhost/x`, `postgres://user:${SECRET}@/`, `postgresql://user:${SECRET}@127.0.0.1:1/db?sslmode=${SECRET}`]) {
    it(url.replaceAll(SECRET, "..."), async () => {
      assert.ok((await refused({ database: url, outageBudget: { milliseconds: 300 } })) instanceof SetupError);
    });
  }

  it("an unreachable host is said soon, with its name", async () => {
    const port = await freePort();
    const error = await refused(`postgresql://user:${SECRET}@127.0.0.1:${String(port)}/db`);
    assert.equal(error.code, "database_unreachable");
    assert.ok(error.message.includes("127.0.0.1") && error.message.includes(String(port)), error.message);
  });

  it("a file that is no database, a folder, a folder that is not there", async () => {
    const folder = mkdtempSync(join(tmpdir(), "everstep-setup-"));
    const text = "this is no database at all, whatever its name says\n".repeat(200);
    writeFileSync(join(folder, "notes.db"), text);
    for (const path of [join(folder, "notes.db"), folder, join(folder, "no/such/folder.db")]) {
      const error = await refused(`sqlite:${path}`);
      assert.ok(error instanceof SetupError && error.message.includes(path), error.message);
    }
    assert.equal(readFileSync(join(folder, "notes.db"), "utf8"), text);
    rmSync(folder, { recursive: true });
  });

  for (const [variable, value] of [["EVERSTEP_ENV", "production"], ["NODE_ENV", "production"], ["KUBERNETES_SERVICE_HOST", "10.0.0.1"]] as const) {
    it(`no configuration where ${variable} says it is production`, async () => {
      const folder = mkdtempSync(join(tmpdir(), "everstep-setup-"));
      const before = { folder: process.cwd(), value: process.env[variable], url: process.env["EVERSTEP_DATABASE_URL"] };
      process.chdir(folder);
      process.env[variable] = value;
      delete process.env["EVERSTEP_DATABASE_URL"];
      try {
        const error = await refused({});
        assert.ok(error instanceof NoDatabase);
        assert.match(error.message, /EVERSTEP_DATABASE_URL/);
        assert.deepEqual(readdirSync(folder), []);
      } finally {
        process.chdir(before.folder);
        if (before.value === undefined) Reflect.deleteProperty(process.env, variable);
        else process.env[variable] = before.value;
        if (before.url !== undefined) process.env["EVERSTEP_DATABASE_URL"] = before.url;
        rmSync(folder, { recursive: true });
      }
    });
  }
});

onEveryStore("setup", (stage) => {
  it("a schema too new", async () => {
    const options = stage.store === "postgres" ? { database: stage.url, schema: "too_new" } : { database: `sqlite:${stage.folder}/too_new.db` };
    const app = new Everstep({ ...options, autoMigrate: true });
    const raise = app.transaction("raise", async (tx) => {
      await tx.execute(`update ${stage.store === "postgres" ? "too_new." : ""}meta set value = '999' where key = 'min_compatible'`);
    });
    const wf = app.workflow("wf", async () => raise());
    await app.launch();
    await (await wf.start()).result(SOON);
    await app.close();
    const error = await refused(options);
    assert.equal(error.code, "schema_too_new");
    assert.match(error.message, /999/);
  });
}, ["sqlite", "postgres"]);
