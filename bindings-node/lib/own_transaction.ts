/** Transactions on the engine's own connection: no driver needed, on both stores. On SQLite one holds the writer, for five seconds at most. */

import { ConfigInvalid } from "./errors_gen.js";
import type { Read, Value } from "./frame.js";
import { OP_TX_EXECUTE } from "./ops_gen.js";
import type { Execution } from "./scope.js";

export type SqlParameter = null | undefined | boolean | number | bigint | string | Date | Uint8Array;
/** Whole numbers beyond 2^53 come as bigint; types the border does not know as the text the database prints. */
export type SqlValue = null | boolean | number | bigint | string | Uint8Array;
export type Row = Record<string, SqlValue>;

/** The rows of one statement, by column name. */
export class Rows<R extends object = Row> extends Array<R> {
  /** Names, in order. */
  declare readonly columns: readonly string[];
  /** How many rows the statement changed. */
  declare readonly affected: number;

  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  /** The first column of the first row, or null. */
  scalar(): SqlValue {
    const [row] = this;
    const [column] = this.columns;
    return row === undefined || column === undefined ? null : ((row as Row)[column] ?? null);
  }
}

/** What the function of `app.transaction` without a source gets. Placeholders are `$1`, `$2` on both stores. */
export class Transaction {
  readonly #execution: Execution;
  readonly #number: number;

  /** @internal */
  constructor(execution: Execution, number: number) {
    this.#execution = execution;
    this.#number = number;
  }

  /**
   * Runs one statement; its parameters go beside the text: `tx.execute("update stock set n = n - $1 where item = $2", n, item)`. What the database refuses is
   * `TransactionFailed`.
   */
  async execute<R extends object = Row>(sql: string, ...params: SqlParameter[]): Promise<Rows<R>> {
    const [columns, rows, affected] = await this.#execution.client.ask(undefined, OP_TX_EXECUTE, [this.#number, sql, params.map((value, index) => parameter(value, index + 1))]);
    const names = (columns as Read[]).map(String);
    const out = new Rows<R>();
    for (const row of rows as Read[][]) out.push(Object.fromEntries(names.map((name, index) => [name, row[index] as SqlValue])) as R);
    return Object.assign(out, { columns: names, affected: Number(affected) });
  }
}

/** What the border carries: scalars as they are, a Date as the text a database reads. `number`: which of the placeholders it is for. */
function parameter(given: SqlParameter, number: number): Value {
  const value: unknown = given;
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value.toISOString();
  // What is beyond 64 bits only a numeric column takes, and that one reads texts.
  if (typeof value === "bigint" && BigInt.asIntN(64, value) !== value) return value.toString();
  if (typeof value === "function" || typeof value === "symbol" || (typeof value === "object" && value !== null && !(value instanceof Uint8Array))) {
    const what = value instanceof Date ? "an invalid Date" : typeof value === "object" ? "an object: write it as JSON.stringify(it)" : `a ${typeof value}`;
    throw new ConfigInvalid(`$${String(number)}: a parameter is a scalar, a Date or bytes, not ${what}`);
  }
  return value as Value;
}
