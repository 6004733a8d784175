/** Transactions that are not waited for any longer: nothing of theirs reaches the database, whatever their function still does, and nobody waits for their locks. */

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { after, before, describe, it } from "node:test";
import type pg from "pg";
import { Everstep, type EverstepError, type Transaction, pgTx } from "everstep";
import { DRIVERS, closeDrivers, loadDrivers, pool } from "./drivers.js";
import { type Postgres, onEveryStore, startPostgres, until } from "./stage.js";

function gate(): { opened: Promise<void>; open: () => void } {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

const CODE = (error: EverstepError): string => error.code;
const SHORT = { timeout: { milliseconds: 200 } };

describe("left transactions", () => {
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
    const app = new Everstep({ database: postgres.url(), schema: `l${++number}`, autoMigrate: true });
    engines.push(app);
    const table = `left_${number}`;
    await look.query(`create table ${table} (n integer)`);
    return { app, table };
  };
  const rows = async (table: string): Promise<number[]> => (await look.query(`select n from ${table} order by n`)).rows.map((row: { n: number }) => row.n);

  for (const [name, driver] of Object.entries(DRIVERS)) {
    for (const max of [4, 1]) {
      it(`${name}, pool of ${max}: what a timed out function still writes is nowhere, not in the next transaction either`, async () => {
        const { app, table } = await engine();
        const source = driver.source(postgres.url(), max);
        const late = gate();
        let begun = false;
        let settled = false;
        const slow = app.transaction(
          "slow",
          source,
          async (tx: any) => {
            begun = true;
            try {
              await driver.execute(tx)(`insert into ${table} values (0)`);
              await late.opened;
              await driver.execute(tx)(`insert into ${table} values (1)`);
            } finally {
              settled = true;
            }
          },
          SHORT,
        );
        const next = app.transaction("next", source, async (tx: any) => {
          await driver.execute(tx)(`insert into ${table} values (2)`);
          // On a machine so slow that it had not begun there is nothing to wait for.
          await until(() => settled || !begun, "the end of the function that was left");
        });
        const wf = app.workflow("wf", async () => {
          // A driver's first connection takes longer than the function is given.
          await next();
          const code = await slow().catch(CODE);
          const second = next();
          late.open();
          await second;
          return code;
        });
        await app.launch();
        assert.equal(await (await wf.start()).result({ timeout: { seconds: 20 } }), "step_timeout");
        assert.deepEqual(await rows(table), [2, 2]);
        await app.close();
      });
    }

    it(`${name}: the attempt after a timeout does not wait for the rows of the one before`, async () => {
      const { app, table } = await engine();
      await look.query(`insert into ${table} values (0)`);
      const never = gate();
      const add = app.transaction(
        "add",
        driver.source(postgres.url()),
        async (tx: any, _: undefined, step) => {
          await driver.execute(tx)(`update ${table} set n = n + 1`);
          if (step.attempt === 1) await never.opened;
          return step.attempt;
        },
        { timeout: { seconds: 1 }, retry: { maxAttempts: 2, initial: { milliseconds: 1 } } },
      );
      const wf = app.workflow("wf", async () => add());
      await app.launch();
      assert.equal(await (await wf.start()).result({ timeout: { seconds: 20 } }), 2);
      assert.deepEqual(await rows(table), [1]);
      never.open();
      await app.close();
    });
  }

  it("a timeout while the pool has no connection free is a timeout, and the function does not begin", async () => {
    const { app, table } = await engine();
    const own = pool(postgres.url(), 1);
    let begun = 0;
    const move = app.transaction("move", pgTx(own), async () => {
      begun++;
      await new Promise(() => undefined);
    }, SHORT);
    const wf = app.workflow("wf", async () => move().catch(CODE));
    await app.launch();
    const held = await own.connect();
    assert.equal(await (await wf.start()).result({ timeout: { seconds: 20 } }), "step_timeout");
    held.release();
    // The connection it had asked for comes back.
    await own.query(`insert into ${table} values (1)`);
    assert.equal(begun, 0);
    await app.close();
  });

  it("a cancel while the pool has no connection free ends the step before its function begins", async () => {
    const { app } = await engine();
    const own = pool(postgres.url(), 1);
    let begun = 0;
    const move = app.transaction("move", pgTx(own), async () => {
      begun++;
    });
    const held = await own.connect();
    const watch = app.step("watch", async (_: undefined, step) => {
      await new Promise((resolve) => {
        step.signal.addEventListener("abort", resolve);
      });
      held.release();
    });
    const wf = app.workflow("wf", async (_: undefined, ctx) => ctx.all([() => watch(), () => move()]));
    await app.launch();
    const run = await wf.start();
    await until(() => own.waitingCount === 1, "the step that waits for a connection");
    await run.cancel();
    await assert.rejects(run.result({ timeout: { seconds: 20 } }), (error: EverstepError) => error.code === "run_cancelled");
    assert.equal(begun, 0);
    await app.close();
  });

  it("a timeout between two attempts at a conflict ends the step", async () => {
    const { app } = await engine();
    let tries = 0;
    const move = app.transaction(
      "move",
      pgTx(pool(postgres.url())),
      async (tx) => {
        tries++;
        await tx.query("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$");
      },
      { timeout: { milliseconds: 500 } },
    );
    const wf = app.workflow("wf", async () => move().catch(CODE));
    await app.launch();
    assert.equal(await (await wf.start()).result({ timeout: { seconds: 20 } }), "step_timeout");
    assert.ok(tries > 1 && tries < 20, String(tries));
    await app.close();
  });

  it("the function of a later attempt runs in the surroundings of its caller", async () => {
    const { app } = await engine();
    const surroundings = new AsyncLocalStorage<string>();
    const seen: unknown[] = [];
    const move = app.transaction("move", pgTx(pool(postgres.url())), async (tx) => {
      seen.push(surroundings.getStore());
      if (seen.length === 1) await tx.query("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$");
    });
    const wf = app.workflow("wf", async () => surroundings.run("the caller's", () => move()));
    await app.launch();
    await (await wf.start()).result();
    assert.deepEqual(seen, ["the caller's", "the caller's"]);
    await app.close();
  });
});

onEveryStore("left transactions on the engine's own connection", (stage) => {
  it("what a timed out function still writes is nowhere", async () => {
    const app = stage.engine();
    const late = gate();
    let refused: EverstepError | undefined;
    const slow = app.transaction(
      "slow",
      async (tx: Transaction) => {
        await tx.execute(`create table left_${stage.store} (n integer)`);
        await late.opened;
        await tx.execute(`insert into left_${stage.store} values (1)`).catch((error: EverstepError) => (refused = error));
      },
      SHORT,
    );
    const count = app.transaction("count", async (tx: Transaction) => (await tx.execute(`select count(*) as n from left_${stage.store}`)).scalar());
    const wf = app.workflow("wf", async () => [await slow().catch(CODE), await count().catch(CODE)]);
    await app.launch();
    const run = await wf.start();
    assert.deepEqual(await run.result({ timeout: { seconds: 20 } }), ["step_timeout", "transaction_failed"]);
    late.open();
    await until(() => refused !== undefined, "the refusal");
    assert.equal(refused?.code, "transaction_too_long");
    await app.close();
  });
});
