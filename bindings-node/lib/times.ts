/** Durations and points in time as the border has them. A duration is an object, never a bare number: `sleep(5)` leaves open five of what. */

import { ConfigInvalid } from "./errors_gen.js";
import { Timestamp } from "./values.js";

/** A span of time; the parts add up. */
export interface Duration {
  days?: number | undefined;
  hours?: number | undefined;
  minutes?: number | undefined;
  seconds?: number | undefined;
  milliseconds?: number | undefined;
}

const PARTS: Readonly<Record<string, number>> = { days: 86_400_000, hours: 3_600_000, minutes: 60_000, seconds: 1_000, milliseconds: 1 };

/** Rounded up: a wait is never shorter than asked for. `what` names the option in the message. */
export function milliseconds(duration: Duration, what: string): number {
  const given: unknown = duration;
  if (typeof given !== "object" || given === null || Array.isArray(given) || given instanceof Date) {
    throw new ConfigInvalid(`${what} takes a duration such as { seconds: ${typeof given === "number" ? given : 5} }, not ${given === null ? "null" : `a ${typeof given}`}`);
  }
  let sum = 0;
  for (const [part, amount] of Object.entries(duration) as [string, unknown][]) {
    const unit = Object.hasOwn(PARTS, part) ? PARTS[part] : undefined;
    if (unit === undefined) throw new ConfigInvalid(`${what}: a duration has no ${JSON.stringify(part)}; it has ${Object.keys(PARTS).join(", ")}`);
    if (amount === undefined) continue;
    if (typeof amount !== "number" || !Number.isFinite(amount)) throw new ConfigInvalid(`${what}: ${part} is a finite number`);
    sum += amount * unit;
  }
  const rounded = Math.ceil(sum - 1e-6);
  if (!Number.isSafeInteger(rounded)) throw new ConfigInvalid(`${what}: this duration is too long`);
  return rounded;
}

export function limitMs(duration: Duration | undefined, what: string): number | null {
  return duration === undefined ? null : Math.max(0, milliseconds(duration, what));
}

/** Microseconds since 1970. */
export function point(when: Date, what: string): number {
  if (!(when instanceof Date) || Number.isNaN(when.getTime())) throw new ConfigInvalid(`${what} takes a valid Date`);
  const microseconds = when.getTime() * 1000;
  if (!Number.isSafeInteger(microseconds)) throw new ConfigInvalid(`${what} is too far away: from the year 1684 to 2255`);
  return microseconds;
}

/** The exact point in time: a Date alone would round it to milliseconds, and the same moment would be another value in another language. */
export function instant(microseconds: number): Date {
  const date = fromMicroseconds(microseconds);
  if (microseconds % 1000 === 0) return date;
  const fraction = String(microseconds % 1_000_000).padStart(6, "0").replace(/0+$/, "");
  return new Timestamp(`${date.toISOString().slice(0, 19)}.${fraction}Z`);
}

export function fromMicroseconds(value: number | bigint): Date {
  return new Date(Number(value) / 1000);
}
