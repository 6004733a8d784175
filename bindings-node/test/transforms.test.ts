/** What a schema changes on the way in is what a step's function sees, wherever it is called; what it changes on the way out is what its caller sees. */

import assert from "node:assert/strict";
import { it } from "node:test";
import { type } from "arktype";
import * as v from "valibot";
import * as z from "zod";
import { EverstepError, type StandardSchema } from "everstep";
import { onEveryStore } from "./stage.js";

const SOON = { timeout: { seconds: 20 } };

interface Written {
  at: string;
  item?: string;
}

interface Seen {
  at: Date;
  item: string;
}

const INPUT: Record<string, StandardSchema<Written, Seen>> = {
  zod: z.object({ at: z.string().transform((text) => new Date(text)), item: z.string().trim().default("pen") }) as StandardSchema<Written, Seen>,
  valibot: v.object({ at: v.pipe(v.string(), v.transform((text) => new Date(text))), item: v.optional(v.pipe(v.string(), v.trim()), "pen") }) as StandardSchema<Written, Seen>,
  arktype: type({ at: ["string", "=>", (text: string) => new Date(text)], item: type("string.trim").default("pen") }),
};
const DATED = z.object({ at: z.coerce.date<string>() });

onEveryStore("transforms", (stage) => {
  for (const [vendor, input] of Object.entries(INPUT)) {
    it(`${vendor}: a call, its retry, a job, a call outside`, async () => {
      const app = stage.engine();
      const book = app.step(
        "book",
        (order, step) => {
          assert.ok(order.at instanceof Date);
          // What one attempt does to its input is not the next one's.
          order.at.setFullYear(order.at.getFullYear() + 1);
          if (step.attempt === 1 && order.item === "again") throw new Error("once more");
          return { at: `${order.at.toISOString()} ${order.item}`.slice(0, 24), item: `${order.item}, attempt ${String(step.attempt)}` };
        },
        { input, retry: { maxAttempts: 2, initial: { milliseconds: 1 } } },
      );
      const at = "2026-01-02T03:04:05.000Z";
      const later = "2027-01-02T03:04:05.000Z";
      const wf = app.workflow("wf", async () => [await book({ at }), await book({ at, item: " again " }), await book.options({ key: "own" })({ at, item: "ink" })]);
      await app.launch();
      assert.deepEqual(await (await wf.start()).result(SOON), [
        { at: later, item: "pen, attempt 1" },
        { at: later, item: "again, attempt 2" },
        { at: later, item: "ink, attempt 1" },
      ]);
      assert.deepEqual(await (await book.start({ at, item: " job " })).result(SOON), { at: later, item: "job, attempt 1" });
      assert.deepEqual(await book({ at, item: " outside " }), { at: later, item: "outside, attempt 1" });
      await assert.rejects(book({ at: 5 } as any), { code: "payload_invalid" });
      await app.close();
    });
  }

  it("of a result: the same in a run, on replay and outside", async () => {
    const app = stage.engine();
    const give = app.step("give", (text: string) => ({ at: text }), { output: DATED });
    const wf = app.workflow("wf", async (_: undefined, ctx) => {
      const inline = await ctx.runStep("inline", () => ({ at: "2026-01-02" }), { output: DATED });
      const mapped = await ctx.map("mapped", ["2026-01-03"], (at) => ({ at }), { output: DATED });
      return [await give("2026-01-01"), inline, ...mapped].map(({ at }) => at.getUTCDate());
    });
    await app.launch();
    assert.deepEqual(await (await wf.start()).result(SOON), [1, 2, 3]);
    assert.deepEqual(await give("2026-01-01"), { at: new Date("2026-01-01") });
    await assert.rejects(give("no date"), { code: "payload_invalid" });
    await app.close();
  });

  it("a value the schema takes only before it is written fails its step, once", async () => {
    const app = stage.engine();
    let calls = 0;
    class Money {
      constructor(readonly cents: number) {}
    }
    const pay = app.step("pay", () => ++calls, { input: z.instanceof(Money), retry: { maxAttempts: 3, initial: { hours: 1 } } });
    const wf = app.workflow("wf", async () => pay(new Money(1)).catch((error: EverstepError) => error.code));
    await app.launch();
    assert.equal(await (await wf.start()).result(SOON), "payload_invalid");
    await assert.rejects(pay(new Money(1)), { code: "payload_invalid" });
    assert.equal(calls, 0);
    await app.close();
  });
});
