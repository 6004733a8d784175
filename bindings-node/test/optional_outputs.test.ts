/** Results that are nothing: a schema that knows undefined and no null takes them back, the first time and on replay. */

import assert from "node:assert/strict";
import { it } from "node:test";
import * as v from "valibot";
import * as z from "zod";
import type { EverstepError, StandardSchema } from "everstep";
import { onEveryStore } from "./stage.js";

const KINDS: Record<string, [schema: StandardSchema, given: unknown, seen: unknown]> = {
  "zod optional": [z.string().optional(), undefined, undefined],
  "zod optional, given": [z.string().optional(), "text", "text"],
  "zod void": [z.void(), undefined, undefined],
  "zod nullable": [z.string().nullable(), null, null],
  "zod nullish": [z.string().nullish(), undefined, null],
  "zod default": [z.string().default("none"), undefined, "none"],
  "valibot optional": [v.optional(v.string()), undefined, undefined],
  "valibot void": [v.void(), undefined, undefined],
};

onEveryStore("results that are nothing", (stage) => {
  it("are what the schema says they are", async () => {
    const app = stage.engine();
    const effects: string[] = [];
    const workflows: [kind: string, start: () => Promise<{ result(): Promise<unknown> }>, seen: unknown][] = [];
    for (const [kind, [output, given, seen]] of Object.entries(KINDS)) {
      const give = app.step(`give ${kind}`, async () => {
        effects.push(kind);
        return given;
      }, { output });
      const wf = app.workflow(`wf ${kind}`, async (_: undefined, ctx) => {
        const first = await give();
        await ctx.sleep({ milliseconds: 1 });
        assert.equal(first, seen, kind);
        return given;
      }, { output });
      workflows.push([kind, () => wf.start(), seen]);
    }
    const refused = app.step("refused", async (): Promise<any> => null, { output: z.string() });
    const last = app.workflow("last", async () => refused().catch((error: EverstepError) => error.message));
    await app.launch();
    for (const [kind, start, seen] of workflows) assert.equal(await (await start()).result(), seen, kind);
    assert.deepEqual(effects, Object.keys(KINDS));
    // What the schema knows neither way is told as what it was.
    assert.match(await (await last.start()).result(), /result of refused: .*null/);
    await app.close();
  });
});
