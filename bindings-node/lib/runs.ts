/** What is known about runs, steps and queues, as plain values. */

import { ConfigInvalid } from "./errors_gen.js";
import type { Read, Value } from "./frame.js";
import { QUEUE, RUN, STEP } from "./ops_gen.js";
import { type Attributes, attributeJson, checkNames, flag, name as checkName, text } from "./options.js";
import { fromMicroseconds, point } from "./times.js";

export type State = "ready" | "running" | "waiting" | "cancelling" | "blocked" | "succeeded" | "failed" | "cancelled";
/** What a control call did. */
export type CancelOutcome = "cancelled" | "requested" | "already_finished";
export type ResumeOutcome = "resumed" | "not_possible";

/** A run as the database has it now. */
export interface RunInfo {
  key: string;
  id: string | null;
  workflow: string;
  state: State;
  version: string | null;
  queue: string | null;
  label: string | null;
  epoch: number;
  priority: number;
  crashes: number;
  attempt: number;
  owner: string | null;
  ownerHost: string | null;
  ownerPid: number | null;
  parent: string | null;
  root: string;
  forkedFrom: string | null;
  attributes: Attributes;
  fairnessKey: string | null;
  cost: number;
  createdBy: string | null;
  createdAt: Date;
  finishedAt: Date | null;
  startAt: Date | null;
  deadlineAt: Date | null;
  expiresAt: Date | null;
  errorType: string | null;
  errorMessage: string | null;
  cancelBy: string | null;
  cancelWhy: string | null;
  blockedWhy: string | null;
  /** What it waits for, in words. */
  waitsFor: string[];
  stepsRecorded: number;
  traceParent: string | null;
  traceState: string | null;
}

/** One recorded call of a run. */
export interface StepInfo {
  branch: string;
  seq: number;
  segment: number;
  kind: string;
  name: string;
  /** `file:line` of the call. */
  location: string;
  failed: boolean;
  attempt: number;
  /** Its number in the order of completions. */
  done: number;
  tookMs: number;
  recordedAt: Date;
  writtenBy: string;
  host: string | null;
  pid: number | null;
  /** The encoded value. */
  output: Uint8Array | null;
  epoch: number;
}

/** A queue as the fleet sees it. `hold`: a released run keeps its slot, so a limit of 1 is a mutex. */
export interface QueueInfo {
  name: string;
  paused: boolean;
  limit: number | null;
  workerLimit: number | null;
  keyLimit: number | null;
  hold: boolean;
}

export interface QueueOptions {
  paused?: boolean;
  /** Runs of this queue at once, in the whole fleet. */
  limit?: number;
  /** Runs of this queue at once, in one worker. */
  workerLimit?: number;
  /** Runs of this queue at once, with the same fairness key. */
  keyLimit?: number;
  hold?: boolean;
}

/** One page of a list; `next` is the `after` of the next one. */
export interface Page<T> {
  items: T[];
  next: string | null;
}

/** What `app.runs` looks for; everything given must hold. */
export interface RunFilter {
  states?: State | readonly State[];
  workflow?: string;
  queue?: string;
  parent?: { readonly key: string };
  attribute?: readonly [name: string, value: string | number | boolean];
  createdFrom?: Date;
  createdBefore?: Date;
  after?: string;
  /** 1 to 1000; default 100. */
  limit?: number;
}

function fieldsOf(names: readonly string[], record: Read): Record<string, unknown> {
  const values = record as Read[];
  return Object.fromEntries(names.map((name, index) => [name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), values[index] ?? null]));
}

function when(value: unknown): Date | null {
  return value === null ? null : fromMicroseconds(value as number);
}

export function runInfo(record: Read): RunInfo {
  const f = fieldsOf(RUN, record);
  const { run, attributes, createdAtUs, finishedAtUs, startAtUs, deadlineAtUs, expiresAtUs, waitsFor, stepsRecorded, queue, label, ...rest } = f;
  delete rest["input"];
  delete rest["outcome"];
  const waits = (waitsFor ?? []) as Read[];
  return {
    key: run,
    ...rest,
    queue: queue === "" ? null : queue,
    label: label === "" ? null : label,
    attributes: typeof attributes === "string" && attributes !== "" ? (JSON.parse(attributes) as Attributes) : {},
    createdAt: when(createdAtUs),
    finishedAt: when(finishedAtUs),
    startAt: when(startAtUs),
    deadlineAt: when(deadlineAtUs),
    expiresAt: when(expiresAtUs),
    waitsFor: waits.map((item) => (Array.isArray(item) ? item.filter((part) => part !== null).map(String).join(" ") : String(item))),
    stepsRecorded: stepsRecorded ?? 0,
  } as RunInfo;
}

export function stepInfo(record: Read): StepInfo {
  const { tookUs, recordedAtUs, ...rest } = fieldsOf(STEP, record);
  return { ...rest, tookMs: Number(tookUs) / 1000, recordedAt: when(recordedAtUs) } as unknown as StepInfo;
}

export function queueInfo(record: Read): QueueInfo {
  return fieldsOf(QUEUE, record) as unknown as QueueInfo;
}

export function queueRecord(queue: QueueInfo): Value[] {
  return [queue.name, queue.paused, queue.limit, queue.workerLimit, queue.keyLimit, queue.hold];
}

const QUEUE_OPTIONS: ReadonlySet<string> = new Set<keyof QueueOptions>(["paused", "limit", "workerLimit", "keyLimit", "hold"]);
const FILTER: ReadonlySet<string> = new Set<keyof RunFilter>(["states", "workflow", "queue", "parent", "attribute", "createdFrom", "createdBefore", "after", "limit"]);

export function queueOf(name: string, options: QueueOptions): QueueInfo {
  checkName(name, "the name of a queue");
  // A misspelt limit would be no limit.
  checkNames(options, QUEUE_OPTIONS, `queue ${JSON.stringify(name)}`);
  const limit = (value: number | undefined, what: string): number | null => {
    if (value !== undefined && !Number.isSafeInteger(value)) throw new ConfigInvalid(`queue ${JSON.stringify(name)}: ${what} is a whole number`);
    return value ?? null;
  };
  return {
    name,
    paused: flag(options.paused, `queue ${JSON.stringify(name)}: paused`),
    limit: limit(options.limit, "limit"),
    workerLimit: limit(options.workerLimit, "workerLimit"),
    keyLimit: limit(options.keyLimit, "keyLimit"),
    hold: flag(options.hold, `queue ${JSON.stringify(name)}: hold`),
  };
}

export function filterRecord(filter: RunFilter): Value[] {
  checkNames(filter, FILTER, "runs");
  const limit = filter.limit ?? 100;
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > 1000) throw new ConfigInvalid("limit is 1 to 1000");
  const states = typeof filter.states === "string" ? [filter.states] : filter.states;
  if (states !== undefined && !(Array.isArray(states) && states.every((state) => typeof state === "string"))) throw new ConfigInvalid("states is a state, or an array of them");
  const attribute: unknown = filter.attribute;
  if (attribute !== undefined && !(Array.isArray(attribute) && attribute.length === 2)) throw new ConfigInvalid("attribute is a pair: [name, value]");
  const [name, value] = filter.attribute ?? [];
  text(name, "the name of an attribute");
  return [
    states,
    text(filter.workflow, "workflow"),
    text(filter.queue, "queue"),
    filter.parent === undefined ? null : keyOf(filter.parent),
    name,
    name === undefined || attribute === undefined ? null : attributeJson(name, value),
    filter.createdFrom === undefined ? null : point(filter.createdFrom, "createdFrom"),
    filter.createdBefore === undefined ? null : point(filter.createdBefore, "createdBefore"),
    text(filter.after, "after"),
    limit,
  ];
}

/** What is ignored here would list every run. */
function keyOf(parent: unknown): string {
  const key: unknown = (parent as { key?: unknown } | null)?.key;
  if (typeof key !== "string") throw new ConfigInvalid("parent is the handle of a run, or { key }");
  return key;
}
