/** Transactional steps on each driver: rows and checkpoint commit together, conflicts run again, another database is refused. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type pg from "pg";
import { Everstep, EverstepError, StepError, type Transaction, setLogger } from "everstep";
import { DRIVERS, type Driver, closeDrivers, loadDrivers, pool } from "./drivers.js";
import { type Postgres, onEveryStore, startPostgres } from "./stage.js";

describe("drivers", () => {
  let postgres: Postgres;
  let look: pg.Pool;
  let number = 0;
  const engines: Everstep[] = [];

  before(async () => {
    await loadDrivers();
    postgres = await startPostgres();
    look = pool(postgres.url());
    await look.query("create database elsewhere");
  });
  after(async () => {
    for (const app of engines) await app.close({ grace: { milliseconds: 0 } });
    await closeDrivers();
    postgres.stop();
  });

  const engine = (): { app: Everstep; table: string } => {
    const app = new Everstep({ database: postgres.url(), schema: `e${++number}`, autoMigrate: true });
    engines.push(app);
    return { app, table: `moved_${number}` };
  };
  const rows = async (table: string): Promise<number> => Number((await look.query(`select count(*) as n from ${table}`)).rows[0].n);

  for (const [name, driver] of Object.entries(DRIVERS)) {
    it(`${name}: commits with its checkpoint, rolls back with its failure`, async () => {
      const { app, table } = engine();
      await look.query(`create table ${table} (n integer)`);
      const move = app.transaction("move", driver.source(postgres.url()), async (tx: any, n: number, step) => {
        await driver.execute(tx)(`insert into ${table} values (${n})`);
        if (n < 0) throw new RangeError("negative");
        return { moved: n, attempt: step.attempt, at: new Date(0) };
      });
      const wf = app.workflow("wf", async () => {
        const out: unknown[] = [await move(1), await move(2)];
        await move(-1).catch((error: EverstepError) => out.push(error.message));
        return out;
      });
      await app.launch();
      const run = await wf.start();
      assert.deepEqual(await run.result(), [{ moved: 1, attempt: 1, at: new Date(0) }, { moved: 2, attempt: 1, at: new Date(0) }, "negative"]);
      assert.equal(await rows(table), 2);
      assert.deepEqual((await run.steps()).map((step) => [step.kind, step.failed]), [["transaction", false], ["transaction", false], ["transaction", true]]);
      // Outside a run: a transaction of its own.
      assert.deepEqual(await move(3), { moved: 3, attempt: 1, at: new Date(0) });
      assert.equal(await rows(table), 3);
      await app.close();
    });

    it(`${name}: a conflict runs the closure again`, async () => {
      const { app, table } = engine();
      await look.query(`create table ${table} (n integer)`);
      let tries = 0;
      const move = app.transaction("move", driver.source(postgres.url()), async (tx: any) => {
        await driver.execute(tx)(`insert into ${table} values (1)`);
        if (++tries < 3) await driver.execute(tx)("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$");
        return tries;
      });
      const wf = app.workflow("wf", async () => move());
      await app.launch();
      assert.equal(await (await wf.start()).result(), 3);
      assert.equal(await rows(table), 1);
      await app.close();
    });

    it(`${name}: another database is refused`, async () => {
      const { app } = engine();
      const move = app.transaction("move", driver.source(postgres.url("elsewhere")), async (tx: any) => {
        await driver.execute(tx)("create table if not exists stray (n integer)");
        return 1;
      });
      const wf = app.workflow("wf", async () => move().catch((error: EverstepError) => error.code));
      await app.launch();
      assert.equal(await (await wf.start()).result(), "other_database");
      const elsewhere = pool(postgres.url("elsewhere"), 1);
      assert.equal((await elsewhere.query("select to_regclass('stray') as found")).rows[0].found, null);
      await app.close();
    });
  }

  // Those of the drivers whose handle can do it; the others end theirs with their callback.
  const ending: Record<string, (tx: any, end: "commit" | "rollback") => Promise<unknown>> = {
    pg: (tx: pg.PoolClient, end) => tx.query(end),
    knex: (tx, end) => tx[end](),
    kysely: (tx, end) => tx[end]().execute(),
  };
  for (const [name, ends] of Object.entries(ending)) {
    for (const end of ["commit", "rollback"] as const) {
      it(`${name}: a function that ends its transaction itself, with ${end}, fails its step, once`, async () => {
        const { app, table } = engine();
        const driver = DRIVERS[name] as Driver;
        await look.query(`create table ${table} (n integer)`);
        const move = app.transaction(
          "move",
          driver.source(postgres.url()),
          async (tx: any, own: boolean) => {
            await driver.execute(tx)(`insert into ${table} values (1)`);
            if (own) await ends(tx, end);
            return 1;
          },
          // Not again, whatever the policy: what was committed stands, and would be there twice.
          { retry: { maxAttempts: 3, initial: { milliseconds: 1 } } },
        );
        const wf = app.workflow("wf", async () => [await move(true).catch((error: EverstepError) => error.code), await move(false)]);
        await app.launch();
        assert.deepEqual(await (await wf.start()).result(), ["transaction_failed", 1]);
        assert.equal(await rows(table), end === "commit" ? 2 : 1);
        await app.close();
      });
    }
  }

  for (const [name, driver] of Object.entries(DRIVERS)) {
    // postgres.js 3.4.9 itself throws out of a timer when its server goes away during a write: nobody could catch that.
    if (name.includes("postgres.js")) continue;
    it(`${name}: a connection lost before COMMIT runs again`, async () => {
      const { app, table } = engine();
      await look.query(`create table ${table} (n integer)`);
      setLogger(() => undefined);
      let tries = 0;
      const move = app.transaction(
        "move",
        driver.source(postgres.url()),
        async (tx: any) => {
          await driver.execute(tx)(`insert into ${table} values (1)`);
          if (++tries === 1) await driver.execute(tx)("select pg_terminate_backend(pg_backend_pid())");
          return tries;
        },
        { retry: { maxAttempts: 3, initial: { milliseconds: 1 } } },
      );
      const wf = app.workflow("wf", async () => move());
      await app.launch();
      assert.equal(await (await wf.start()).result({ timeout: { seconds: 30 } }), 2);
      assert.equal(await rows(table), 1);
      await app.close();
      setLogger();
    });
  }
});

onEveryStore("the engine's own connection", (stage) => {
  it("rows by name, parameters of every kind, a rollback", async () => {
    const app = stage.engine();
    const bytes = stage.store === "postgres" ? "bytea" : "blob";
    const write = app.transaction("write", async (tx: Transaction, n: number) => {
      await tx.execute(`create table if not exists own_${stage.store} (n bigint, t text, b ${bytes})`);
      const made = await tx.execute(`insert into own_${stage.store} values ($1, $2, $3)`, 9007199254740993n, "text", new Uint8Array([1, 2]));
      if (n < 0) throw new RangeError("negative");
      const rows = await tx.execute<{ n: bigint; t: string; b: Uint8Array }>(`select n, t, b from own_${stage.store}`);
      return { affected: made.affected, columns: rows.columns, row: rows[0], count: (await tx.execute(`select count(*) as c from own_${stage.store}`)).scalar(), mapped: rows.map((row) => row.t) };
    });
    const odd = app.transaction("odd", async (tx: Transaction, what: string) => {
      const value = { large: 2n ** 70n, function: () => 1, symbol: Symbol("s"), object: {}, date: new Date(NaN) }[what];
      return (await tx.execute<{ b: string }>(`select $1 as a, cast($2 as ${stage.store === "postgres" ? "numeric" : "text"}) as b`, "a", value as any)).map((row) => row.b);
    });
    const broken = app.transaction("broken", async (tx: Transaction) => tx.execute("select nonsense from nowhere"));
    const wf = app.workflow("wf", async () => {
      const out: unknown[] = [await write(1)];
      await write(-1).catch((error: EverstepError) => out.push(error.message));
      await broken().catch((error: EverstepError) => out.push(error.code, error instanceof StepError));
      for (const what of ["function", "symbol", "object", "date"]) await odd(what).catch((error: EverstepError) => out.push(`${error.code} ${error.message.slice(0, 3)}`));
      return [...out, (await write(2)).count, await odd("large")];
    });
    await app.launch();
    const [first, ...rest] = (await (await wf.start()).result()) as any[];
    assert.deepEqual(first, { affected: 1, columns: ["n", "t", "b"], row: { n: 9007199254740993n, t: "text", b: new Uint8Array([1, 2]) }, count: 1, mapped: ["text"] });
    assert.deepEqual(rest, ["negative", "transaction_failed", true, ...Array.from({ length: 4 }, () => "config_invalid $2:"), 2, [String(2n ** 70n)]]);
    await assert.rejects(write(1), (error: any) => error.code === "outside_run");
    await app.close();
  });
});
