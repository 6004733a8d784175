/**
 * Raw `Promise.all` and `Promise.race` over steps replay as they ran: 10,000 runs, each cut off at a random place by an error of the program's own and replayed
 * under other latencies. Every item must get its own results, every race its recorded winner, and no run may be blocked.
 */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";
import { Everstep, setLogger } from "everstep";

const SEEDS = Number(process.env["EVERSTEP_TEST_SEEDS"] ?? 10_000);
const AT_ONCE = 200;

/** xorshift32: the same latencies for the same seed and attempt. */
function random(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 4294967296;
  };
}

/** Any kind of waiting a step may do: none, promise callbacks, the next turn of the loop, a timer. */
async function latency(next: () => number): Promise<void> {
  const kind = Math.floor(next() * 4);
  const times = 1 + Math.floor(next() * 3);
  for (let i = 0; i < times && kind > 0; i++) {
    if (kind === 1) await Promise.resolve();
    else if (kind === 2) await new Promise((resolve) => setImmediate(resolve));
    else await new Promise((resolve) => setTimeout(resolve, Math.floor(next() * 3)));
  }
}

interface Trace {
  order: string[];
  winner: number | undefined;
}

it(`${SEEDS} seeds of latencies`, { timeout: 600_000 }, async () => {
  const folder = mkdtempSync(join(process.platform === "linux" ? "/dev/shm" : ".", "everstep-turns-"));
  setLogger((level, message) => {
    if (level === "error") console.error(message);
  });
  const app = new Everstep({ database: `sqlite:${join(folder, "turns.db")}`, slots: AT_ONCE });
  const traces = new Map<number, Trace[]>();
  const latencies = new Map<number, () => number>();
  const ran = new Map<string, number>();

  const first = app.step("first", async ({ seed, item }: { seed: number; item: number }) => {
    await latency(latencies.get(seed) as () => number);
    return `${seed}.${item}`;
  });
  const second = app.step("second", async ({ seed, of }: { seed: number; of: string }) => {
    await latency(latencies.get(seed) as () => number);
    ran.set(of, (ran.get(of) ?? 0) + 1);
    return `${of}!`;
  });
  const racer = app.step("racer", async ({ seed, item }: { seed: number; item: number }) => {
    await latency(latencies.get(seed) as () => number);
    return item;
  });

  const wf = app.workflow(
    "wf",
    async (seed: number, ctx) => {
      // Which latencies, and where this attempt is cut off, differ from attempt to attempt; what the program does must not.
      const shape = random(seed);
      const luck = random(seed * 31 + ctx.attempt * 7919);
      latencies.set(seed, luck);
      const items = 2 + Math.floor(shape() * 3);
      const cut = ctx.attempt === 1 ? Math.floor(luck() * (items * 2 + 2)) : Infinity;
      const trace: Trace = { order: [], winner: undefined };
      traces.set(seed, [...(traces.get(seed) ?? []), trace]);
      const seen = (what: string): void => {
        trace.order.push(what);
        if (trace.order.length > cut) throw new Error("cut off");
      };
      // Positions of the second steps depend on the order in which the first ones come back: the natural program, and the natural trap.
      const chains = Array.from({ length: items }, async (_, item) => {
        const mine = await first({ seed, item });
        seen(`first ${item}`);
        const out = await second({ seed, of: mine });
        seen(`second ${item}`);
        return out;
      });
      const results = await Promise.all(chains);
      trace.winner = await Promise.race([racer({ seed, item: 0 }), racer({ seed, item: 1 })]);
      seen(`race ${trace.winner}`);
      return [results, trace.winner];
    },
    { retry: { maxAttempts: 2, initial: { milliseconds: 0 }, jitter: false } },
  );

  await app.launch();
  let next = 0;
  let replayed = 0;
  const worker = async (): Promise<void> => {
    while (next < SEEDS) {
      const seed = next++;
      const [results, winner] = (await (await wf.start(seed)).result()) as [string[], number];
      assert.deepEqual(
        results,
        results.map((_, item) => `${seed}.${item}!`),
        `seed ${seed}`,
      );
      const [one, two] = traces.get(seed) as [Trace, Trace?];
      if (two !== undefined) {
        replayed++;
        // What the first attempt had seen, the second sees in the same order.
        const recorded = one.order;
        assert.deepEqual(two.order.slice(0, recorded.length), recorded, `seed ${seed}`);
        if (one.winner !== undefined) assert.equal(two.winner, one.winner, `seed ${seed}`);
      }
      assert.ok(winner === 0 || winner === 1);
      traces.delete(seed);
      latencies.delete(seed);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  } catch (error) {
    await app.close({ grace: { milliseconds: 0 } });
    throw error;
  }
  assert.ok(replayed > SEEDS / 2, `${replayed} of ${SEEDS} were replayed`);
  for (const [of, times] of ran) assert.ok(times <= 2, `${of} ran ${times} times`);
  await app.close();
  setLogger();
  rmSync(folder, { recursive: true });
});
