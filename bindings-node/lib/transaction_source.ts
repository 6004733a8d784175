/** Where transactions come from. One source a driver, in `lib/sources`; write one of your own for another. */

/** One open transaction. */
export interface OpenTransaction<T> {
  /** What the user's function gets. */
  readonly given: T;
  /** Runs one statement with its parameters, all of them texts or null, and gives back the first column of its first row. */
  guard(sql: string, params: readonly (string | null)[]): Promise<unknown>;
  commit(): Promise<void>;
  /** Its error says that the connection is gone. */
  rollback(): Promise<void>;
  /** Whether the connection is gone, where a `rollback` does not fail then. Asked before it, and only where an error of the function reads as if it were. */
  isGone?(): Promise<boolean>;
  /**
   * In place of `rollback`, at once, where the function is not waited for any longer and may still be running: nothing it does from here on may reach the
   * database, not outside a transaction either. Without it the transaction is made to fail, and rolled back and closed once the function has ended.
   */
  abandon?(): Promise<void> | void;
  /** Gives the connection back; after commit or rollback. */
  close(): Promise<void> | void;
}

export interface TransactionSource<T> {
  /** How the driver writes placeholders: `$1`, `?` or `:p1`. */
  readonly style: "dollar" | "question" | "named";
  open(): Promise<OpenTransaction<T>>;
}

const STATE = /^[0-9A-Z]{5}$/;

type Told = Readonly<Record<"code" | "originalCode" | "errno" | "kind" | "message", unknown>>;

/** What the error and what it wraps say, outermost first. Each property is read once, here: one that throws must not take the place of the error it belongs to. */
function chain(error: unknown): Told[] {
  const seen: unknown[] = [];
  const out: Told[] = [];
  const add = (value: unknown): void => {
    if (typeof value !== "object" || value === null || seen.length >= 8 || seen.includes(value)) return;
    seen.push(value);
    const { code, originalCode, errno, kind, message, cause, meta, driverAdapterError } = value as Record<string, unknown>;
    out.push({ code, originalCode, errno, kind, message });
    // Drizzle and most others wrap with `cause`; Prisma keeps what the adapter said in `meta`.
    add(cause);
    add(meta);
    add(driverAdapterError);
  };
  try {
    add(error);
  } catch {
    // An error with getters that throw says no more than it said so far.
  }
  return out;
}

/** The SQLSTATE, of pg and postgres.js and what wraps them. */
export function sqlState(error: unknown): string | undefined {
  for (const record of chain(error)) {
    // `EPIPE` has five letters, too; errors of the system have a number beside it.
    for (const code of [record.code, record.originalCode]) {
      if (typeof code === "string" && STATE.test(code) && record.errno === undefined && !/^P\d{4}$/.test(code)) return code;
    }
  }
  return undefined;
}

/** The database asks for another attempt of the whole transaction. */
export function isConflict(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return state === "40001" || state === "40P01";
  return chain(error).some((record) => record.code === "P2034" || record.kind === "TransactionWriteConflict");
}

const LOST = new Set([
  "ECONNRESET",
  "ECONNREFUSED",
  "EPIPE",
  "ETIMEDOUT",
  "ENOTFOUND",
  "EHOSTUNREACH",
  "CONNECTION_CLOSED",
  "CONNECTION_ENDED",
  "CONNECTION_DESTROYED",
  "CONNECT_TIMEOUT",
  "P1001",
  "P1002",
  "P1008",
  "P1017",
  "P2024",
]);

/** Of node-postgres, which has no code for these. Knex puts the statement before them. */
const LOST_MESSAGE = /(?:^| - )(?:Connection terminated|Client has encountered a connection error|timeout exceeded when trying to connect|Cannot use a pool after)/;

/** The connection went before COMMIT was asked for, or there was none to be had: nothing is stored, so the closure may run again. */
export function isLost(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return state.startsWith("08") || state.startsWith("53") || state.startsWith("57P");
  return chain(error).some(
    (record) =>
      (typeof record.code === "string" && LOST.has(record.code)) ||
      (typeof record.message === "string" && LOST_MESSAGE.test(record.message)),
  );
}

/** The server answered, and the answer is no: the transaction is known to be rolled back. */
export function isRefusal(error: unknown): boolean {
  const state = sqlState(error);
  return state !== undefined && !/^(08|57|53|XX)/.test(state);
}

/** The guard found no tables of the engine: this is another database. */
export function knowsNoEngine(error: unknown): boolean {
  return ["42P01", "3F000"].includes(sqlState(error) ?? "");
}
