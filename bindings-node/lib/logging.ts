/** Replay-aware logging: records carry run, step, attempt, replaying; while a run replays, records below warning are dropped. A workflow's code between steps
 * runs again on every resume; without this each resume repeats its lines. */

import { HERE, RunningStep } from "./scope.js";

export type Level = "debug" | "info" | "warn" | "error";
export type Fields = Readonly<Record<string, unknown>>;

/** Where records go. The methods of `console`, pino and winston fit behind three lines. */
export interface LogSink {
  (level: Level, message: string, fields: Fields): void;
}

const written: LogSink = (level, message, fields) => {
  const { error, ...rest } = fields;
  const extra = Object.entries(rest)
    .filter(([, value]) => value !== undefined && value !== false)
    .map(([key, value]) => ` ${key}=${String(value)}`)
    .join("");
  const text = `everstep ${level}: ${message}${extra}`;
  // Everything to stderr: what a program prints is its own.
  if (error === undefined) console.error(text);
  else console.error(text, error);
};

let sink: LogSink = written;

/** Sends all records of this process elsewhere; without an argument back to stderr. */
export function setLogger(to?: LogSink): void {
  sink = to ?? written;
}

/** A sink that throws fails neither the run that logs nor the engine's own work. */
function tell(level: Level, message: string, fields: Fields): void {
  try {
    sink(level, message, fields);
  } catch (error) {
    console.error(`everstep error: the logger threw at: ${message}`, error);
  }
}

/** Messages of the engine itself. Debug is for whoever gives a sink of their own. */
export const log = {
  debug(message: string, fields: Fields = {}): void {
    if (sink !== written) tell("debug", message, fields);
  },
  info(message: string, fields: Fields = {}): void {
    tell("info", message, fields);
  },
  warn(message: string, fields: Fields = {}): void {
    tell("warn", message, fields);
  },
  error(message: string, fields: Fields = {}): void {
    tell("error", message, fields);
  },
};

/** For workflow and step code. */
export class Logger {
  debug(message: string, fields: Fields = {}): void {
    record("debug", message, fields);
  }

  info(message: string, fields: Fields = {}): void {
    record("info", message, fields);
  }

  warn(message: string, fields: Fields = {}): void {
    record("warn", message, fields);
  }

  error(message: string, fields: Fields = {}): void {
    record("error", message, fields);
  }
}

function record(level: Level, message: string, fields: Fields): void {
  const here = HERE.getStore();
  if (here === undefined) {
    tell(level, message, fields);
    return;
  }
  const step = here instanceof RunningStep ? here : undefined;
  const { execution } = here;
  const replaying = step === undefined && execution?.replaying === true;
  if (replaying && (level === "debug" || level === "info")) return;
  tell(level, message, { run: execution?.run, workflow: execution?.name, step: step?.name, attempt: step?.attempt ?? execution?.attempt, replaying, ...fields });
}

export function logEvent(level: string, code: string, message: string): void {
  const known: Readonly<Record<string, Level>> = { debug: "debug", info: "info", warning: "warn", warn: "warn", error: "error" };
  log[known[level] ?? "info"](message, { code });
}
