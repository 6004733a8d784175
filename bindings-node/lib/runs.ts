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

/** What a workflow named by `onFinish` is started with. */
export interface Finished<Output = unknown> {
  /** Key of the run that has ended. */
  run: string;
  /** Its workflow, or its step where it was a job. */
  workflow: string;
  state: "succeeded" | "failed" | "cancelled";
  /** What it returned; of one that did not succeed its error: an object of type, code, message, stack, cause, details, retryable. */
  value: Output;
}

/** A run as the database has it now. */
export interface RunInfo {
  /** A uuid: the engine's own, or made of the id. */
  key: string;
  /** What it was started with. */
  id: string | null;
  workflow: string;
  state: State;
  /** What its start or its workflow said; stored and shown, it pins nothing. */
  version: string | null;
  /** None: it runs in the process that started it, or in any worker once that is gone. */
  queue: string | null;
  /** Only workers of this label run it. */
  label: string | null;
  /** Grows at every claim, wake, release, takeover, cancel, resume and rewind: (owner, epoch) names one execution. */
  epoch: number;
  /** The lowest number starts first. */
  priority: number;
  /** Takeovers from workers that died without anything having been recorded since the one before; at 5 the run is blocked. */
  crashes: number;
  /** Which attempt of the whole run this is, from 1. */
  attempt: number;
  /** The worker that has it; null where nobody does. */
  owner: string | null;
  /** The host of that worker. */
  ownerHost: string | null;
  /** Its process there. */
  ownerPid: number | null;
  /** Key of the run that started this one as a child. */
  parent: string | null;
  /** Key of the first of them all; a run without a parent is its own root. */
  root: string;
  /** Key of the run this one is a copy of. */
  forkedFrom: string | null;
  attributes: Attributes;
  /** What the `keyLimit` of its queue counts by. */
  fairnessKey: string | null;
  /** Stored for later; nothing acts on it yet. */
  cost: number;
  /** Who started it, as its start said. */
  createdBy: string | null;
  createdAt: Date;
  finishedAt: Date | null;
  /** Not before: of a `delay` or `startAt`. */
  startAt: Date | null;
  /** It is cancelled then. */
  deadlineAt: Date | null;
  /** It is cancelled if it has not been started by then. */
  expiresAt: Date | null;
  /** Of the error a failed run ended with. */
  errorType: string | null;
  errorMessage: string | null;
  /** Of a cancel that was asked for. */
  cancelBy: string | null;
  cancelWhy: string | null;
  /** What is wrong with a blocked run, and what to do. */
  blockedWhy: string | null;
  /** What it waits for, in words. */
  waitsFor: string[];
  /** Every recorded call, waits and messages too. */
  stepsRecorded: number;
  /** W3C trace context it was started with. */
  traceParent: string | null;
  traceState: string | null;
}

/** One recorded call of a run. */
export interface StepInfo {
  /** Path of the branch it was called in; "" is the workflow's own. */
  branch: string;
  /** Which call of its branch, in program order: what `rewind` takes. */
  seq: number;
  /** Which part of a run that was rewound or continued. */
  segment: number;
  /** step, transaction, sleep, receive, send, event, child and so on. */
  kind: string;
  /** A step's; of other calls the topic, the key of the event, the workflow. */
  name: string;
  /** `folder/file:line` of the call. */
  location: string;
  failed: boolean;
  /** The one that was recorded, from 1. */
  attempt: number;
  /** Its number in the order the run's calls completed in, from 0. */
  done: number;
  tookMs: number;
  recordedAt: Date;
  /** The worker that recorded it. */
  writtenBy: string;
  /** The host of that worker. */
  host: string | null;
  /** Its process there. */
  pid: number | null;
  /** The encoded value; null where there is none. */
  output: Uint8Array | null;
  /** Of the execution it was recorded in. */
  epoch: number;
}

/** A queue as the fleet sees it; its fields are those of `QueueOptions`. */
export interface QueueInfo {
  name: string;
  paused: boolean;
  limit: number | null;
  workerLimit: number | null;
  keyLimit: number | null;
  hold: boolean;
}

export interface QueueOptions {
  /** Nothing is claimed from it; what runs goes on. */
  paused?: boolean | undefined;
  /** Runs of this queue at once, in the whole fleet. */
  limit?: number | undefined;
  /** Runs of this queue at once, in one worker. */
  workerLimit?: number | undefined;
  /** Runs of this queue at once, with the same fairness key. */
  keyLimit?: number | undefined;
  /** A released run keeps its slot, so a limit of 1 is a mutex. */
  hold?: boolean | undefined;
}

/** One page of a list; `next` is the `after` of the next one. */
export interface Page<T> {
  items: T[];
  next: string | null;
}

/** What `app.runs` looks for; everything given must hold. */
export interface RunFilter {
  states?: State | readonly State[] | undefined;
  workflow?: string | undefined;
  queue?: string | undefined;
  /** The run that started them, by its handle or key. */
  parent?: { readonly key: string } | undefined;
  /** One of their attributes has this value. */
  attribute?: readonly [name: string, value: string | number | boolean] | undefined;
  createdFrom?: Date | undefined;
  createdBefore?: Date | undefined;
  /** The `next` of the page before. */
  after?: string | undefined;
  /** 1 to 1000; default 100. */
  limit?: number | undefined;
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
  if (attribute !== undefined && typeof name !== "string") throw new ConfigInvalid("the name of an attribute is a text");
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
