/** The table of waiters: random use against a Map, with tokens given out long before they are waited for. */

import assert from "node:assert/strict";
import { it } from "node:test";
import { Pending, type Waiter } from "../lib/pending.js";

function waiter(): Waiter {
  return { token: 0, execution: undefined, resolve: () => undefined, reject: () => undefined };
}

it("gives each token once, and each waiter to its token only", () => {
  let seed = 7;
  const below = (bound: number): number => (seed = (seed * 48271) % 2147483647) % bound;
  const pending = new Pending();
  const expected = new Map<number, Waiter>();
  const given = new Set<number>();
  const early: number[] = [];
  for (let round = 0; round < 200_000; round++) {
    const token = pending.newToken();
    assert.ok(!given.has(token));
    given.add(token);
    // Thousands stay for long; most are answered at once.
    if (below(50) === 0) early.push(token);
    else {
      const one = waiter();
      pending.add(token, one);
      expected.set(token, one);
      if (below(20) !== 0) {
        assert.equal(pending.take(token), one);
        expected.delete(token);
      }
    }
    if (below(100) === 0) {
      const late = early.splice(below(early.length), 1)[0];
      if (late !== undefined) {
        const one = waiter();
        pending.add(late, one);
        expected.set(late, one);
      }
    }
    assert.equal(pending.take(token + 1 + below(5000)), undefined);
    assert.equal(pending.size, expected.size);
  }
  for (const [token, one] of [...expected].slice(0, 5000)) {
    assert.equal(pending.take(token), one);
    assert.equal(pending.take(token), undefined);
    expected.delete(token);
  }
  assert.deepEqual(new Set(pending.takeAll()), new Set(expected.values()));
  assert.equal(pending.size, 0);
});
