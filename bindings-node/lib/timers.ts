/**
 * The loop's own timers, taken before a test can replace them: under the fake ones of node:test, Jest or Vitest no turn would ever come, and every run with two
 * steps at once would hang. The clock of runs is the database's, so there is nothing in here that a test's clock should move.
 */

import * as timers from "node:timers";

export const { setImmediate, setTimeout, setInterval, clearTimeout } = timers;
