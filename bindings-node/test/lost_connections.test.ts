/** Which errors are a lost connection's, and run a transaction again whatever its policy: those of its own connection, not those that read alike. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type pg from "pg";
import { Everstep, EverstepError, type Transaction, setLogger } from "everstep";
import { DRIVERS, closeDrivers, loadDrivers, pool } from "./drivers.js";
import { type Postgres, onEveryStore, startPostgres } from "./stage.js";

const SOON = { timeout: { seconds: 30 } };

/** What a function's HTTP call, its mail server or another database may say. */
const ALIKE: Record<string, () => Error> = {
  "an HTTP call": () => new TypeError("fetch failed", { cause: Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:1"), { code: "ECONNREFUSED", errno: -111, syscall: "connect" }) }),
  "a socket": () => Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET", errno: -104, syscall: "read" }),
  "a pool of another database": () => new Error("timeout exceeded when trying to connect"),
};

describe("lost connections", () => {
  let postgres: Postgres;
  let look: pg.Pool;
  let number = 0;
  const engines: Everstep[] = [];

  before(async () => {
    await loadDrivers();
    postgres = await startPostgres();
    look = pool(postgres.url());
  });
  after(async () => {
    for (const app of engines) await app.close({ grace: { milliseconds: 0 } });
    await closeDrivers();
    postgres.stop();
  });

  const engine = async (): Promise<{ app: Everstep; table: string }> => {
    const app = new Everstep({ database: postgres.url(), schema: `c${++number}`, autoMigrate: true });
    engines.push(app);
    const table = `cut_${number}`;
    await look.query(`create table ${table} (n integer, constraint late_${number} unique (n) deferrable initially deferred)`);
    return { app, table };
  };
  const rows = async (table: string): Promise<number[]> => (await look.query(`select n from ${table} order by n`)).rows.map((row: { n: number }) => row.n);

  for (const [name, driver] of Object.entries(DRIVERS)) {
    it(`${name}: an error of the function's own is no lost connection`, async () => {
      const { app, table } = await engine();
      const calls: string[] = [];
      const move = app.transaction("move", driver.source(postgres.url()), async (tx: any, what: string) => {
        calls.push(what);
        await driver.execute(tx)(`insert into ${table} values (1)`);
        throw (ALIKE[what] as () => Error)();
      });
      const wf = app.workflow("wf", async () => {
        const out: string[] = [];
        for (const what of Object.keys(ALIKE)) await move(what).catch((error: EverstepError) => out.push(error.message));
        return out;
      });
      await app.launch();
      assert.deepEqual(await (await wf.start()).result(SOON), Object.values(ALIKE).map((make) => make().message));
      assert.deepEqual(calls, Object.keys(ALIKE));
      assert.deepEqual(await rows(table), []);
      await app.close();
    });

    it(`${name}: what the database says of a COMMIT is heard`, async () => {
      const { app, table } = await engine();
      const move = app.transaction("move", driver.source(postgres.url()), async (tx: any) => {
        // Two of one number, which is looked at when it commits.
        await driver.execute(tx)(`insert into ${table} values (1), (1)`);
      });
      const wf = app.workflow("wf", async () => move().then(() => "committed", (error: EverstepError) => error.message));
      await app.launch();
      assert.match(await (await wf.start()).result(SOON), /late_\d+|unique|Failed query: commit/i);
      assert.deepEqual(await rows(table), []);
      await app.close();
    });

    // postgres.js 3.4.9 itself throws out of a timer when its server goes away during a write: nobody could catch that.
    if (name.includes("postgres.js")) continue;
    it(`${name}: a connection that is found cut runs the function again`, async () => {
      const { app, table } = await engine();
      setLogger(() => undefined);
      let calls = 0;
      const move = app.transaction("move", driver.source(postgres.url()), async (tx: any) => {
        await driver.execute(tx)(`insert into ${table} values (1)`);
        if (++calls > 1) return calls;
        await assert.rejects(driver.execute(tx)("select pg_terminate_backend(pg_backend_pid())"));
        // Without the server's word for it.
        await driver.execute(tx)("select 1");
        return 0;
      });
      const wf = app.workflow("wf", async () => move());
      await app.launch();
      assert.equal(await (await wf.start()).result(SOON), 2);
      assert.deepEqual(await rows(table), [1]);
      await app.close();
      setLogger();
    });
  }
});

onEveryStore("lost connections on the engine's own", (stage) => {
  it("an error of the function's own is none", async () => {
    const app = stage.engine();
    let calls = 0;
    const move = app.transaction("move", async (tx: Transaction, what: string) => {
      calls++;
      await tx.execute("select 1");
      throw (ALIKE[what] as () => Error)();
    });
    const wf = app.workflow("wf", async () => {
      const out: string[] = [];
      for (const what of Object.keys(ALIKE)) await move(what).catch((error: EverstepError) => out.push(error.message));
      return out;
    });
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(SOON), Object.values(ALIKE).map((make) => make().message));
    assert.equal(calls, Object.keys(ALIKE).length);
    await app.close();
  });
});
