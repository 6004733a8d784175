/**
 * What outlives its caller: the engine's events, and the timer that keeps the loop alive. Each would run with the AsyncLocalStorage stores of whichever request made
 * it, and keep them for as long as it lives. So it is made in what surrounds this module.
 */

import { AsyncResource } from "node:async_hooks";

const SURROUNDINGS = new AsyncResource("Everstep", { requireManualDestroy: true });

/** The value of `make`, called with none of the stores of its caller. */
export function outside<T>(make: () => T): T {
  return SURROUNDINGS.runInAsyncScope(make);
}
