/** Who waits for which token: a table that gives tokens out itself, so that each has a place nobody else is in. A Map makes garbage and hashes for every one. */

import type { Frame } from "./frame.js";
import type { Execution } from "./scope.js";

/** Who hears what comes for a token: a promise, or a call of a step, which needs none. */
export interface Waiter {
  /** The token it waits for; the table's business. */
  token: number;
  resolve(frame: Frame): void;
  reject(error: unknown): void;
  /** Whose turn the event may ask for. */
  readonly execution: Execution | undefined;
}

export class Pending {
  private places = new Array<Waiter | undefined>(1024).fill(undefined);
  private last = 0;
  size = 0;

  /** Never given out before. */
  newToken(): number {
    do this.last++;
    while (this.places[this.last & (this.places.length - 1)] !== undefined);
    return this.last;
  }

  add(token: number, waiter: Waiter): void {
    // At most half full: the next free place is near. Two tokens may want one place when the first was given out long before it is waited for.
    while (this.size * 2 >= this.places.length || this.places[token & (this.places.length - 1)] !== undefined) this.grow();
    waiter.token = token;
    this.places[token & (this.places.length - 1)] = waiter;
    this.size++;
  }

  /** The waiter, who waits no longer. */
  take(token: number): Waiter | undefined {
    const place = token & (this.places.length - 1);
    const waiter = this.places[place];
    if (waiter?.token !== token) return undefined;
    this.places[place] = undefined;
    this.size--;
    return waiter;
  }

  takeAll(): Waiter[] {
    const all = this.places.filter((waiter) => waiter !== undefined);
    this.places.fill(undefined);
    this.size = 0;
    return all;
  }

  private grow(): void {
    const all = this.places.filter((waiter) => waiter !== undefined);
    // Tokens that differ keep doing so in twice the room, or in twice that.
    const places = new Array<Waiter | undefined>(this.places.length * 2).fill(undefined);
    for (const waiter of all) places[waiter.token & (places.length - 1)] = waiter;
    this.places = places;
  }
}
