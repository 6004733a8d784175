/** What both programs under measurement have in common: lines of JSON on stdout, `go` on stdin. */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const waiting: ((more: boolean) => void)[] = [];
let arrived = 0;
let ended = false;

createInterface({ input: process.stdin })
  .on("line", () => {
    const next = waiting.shift();
    if (next === undefined) arrived++;
    else next(true);
  })
  .on("close", () => {
    ended = true;
    for (const next of waiting.splice(0)) next(false);
  });

/** False when there will be no more. */
export function waitForGo(): Promise<boolean> {
  if (arrived > 0) {
    arrived--;
    return Promise.resolve(true);
  }
  return ended ? Promise.resolve(false) : new Promise((resolve) => waiting.push(resolve));
}

export function say(words: Record<string, unknown>): void {
  process.stdout.write(`${JSON.stringify(words)}\n`);
}

export function residentMb(): number {
  const line = readFileSync("/proc/self/status", "utf8").split("\n").find((entry) => entry.startsWith("VmRSS:"));
  if (line === undefined) throw new Error("no VmRSS in /proc/self/status");
  return Number(line.split(/\s+/)[1]) / 1024;
}

export function percentile(values: readonly number[], share: number): number {
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.min(ordered.length - 1, Math.floor(share * ordered.length))] ?? NaN;
}

/** The clock that all processes of one machine share. */
export function monotonicNs(): number {
  return Number(process.hrtime.bigint());
}

export const [LOAD = "", GIVEN = "{}"] = process.argv.slice(2);
export const OPTIONS = JSON.parse(GIVEN) as Record<string, number> & { url: string; variant?: string };
export const OUTPUT = "x".repeat(98);

export function gate(): { promise: Promise<void>; open: () => void } {
  let open: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}
