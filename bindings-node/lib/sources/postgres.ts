import { checkNames } from "../options.js";
import type { TransactionSource } from "../transaction_source.js";
import { firstColumn, openCallback } from "./callback.js";
import { checkIsolation } from "./isolation.js";

/** What `sql.begin` of postgres.js hands out, as far as it is used here. */
export interface PostgresSql {
  unsafe(query: string, parameters?: never[]): PromiseLike<unknown>;
}

export interface PostgresOptions {
  isolation?: "read committed" | "repeatable read" | "serializable" | undefined;
}

const POSTGRES_OPTIONS: ReadonlySet<string> = new Set<keyof PostgresOptions>(["isolation"]);

// `begin` of postgres.js is overloaded; the transaction is the parameter of the callback it takes last.
type Begin<Tx> = { begin(inside: (sql: Tx) => Promise<void>): Promise<unknown>; begin(options: string, inside: (sql: Tx) => Promise<void>): Promise<unknown> };

/** Transactions on postgres.js: the function gets the `sql` of the transaction. */
export function postgresTx<Tx extends PostgresSql>(sql: {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- The result type of `begin` is generic over its callback; no structural type is.
  begin(options: string, inside: (sql: Tx) => any): Promise<any>;
}, options: PostgresOptions = {}): TransactionSource<Tx> {
  checkNames(options, POSTGRES_OPTIONS, "postgresTx");
  checkIsolation(options.isolation, "isolation");
  const mode = typeof options.isolation === "string" ? `isolation level ${options.isolation}` : "";
  return {
    style: "dollar",
    open: () =>
      openCallback<Tx>(
        (inside) => (sql as unknown as Begin<Tx>).begin(mode, inside),
        async (given, text, params) => firstColumn(await given.unsafe(text, [...params] as never[])),
      ),
  };
}
