import type { TransactionSource } from "../transaction_source.js";
import { asTemplate, firstColumn, openCallback } from "./callback.js";
import { checkIsolation } from "./isolation.js";

/** The `sql` tag of drizzle-orm. */
export type DrizzleSql<Query> = (strings: TemplateStringsArray, ...values: unknown[]) => Query;

/**
 * Transactions on a Drizzle database over node-postgres or postgres.js: the function gets Drizzle's transaction. `sql` is the tag of the same drizzle-orm, so
 * that this package needs none of its own.
 */
export function drizzleTx<Tx, Query>(
  db: { transaction(inside: (tx: Tx) => Promise<void>, config?: never): Promise<unknown> },
  sql: DrizzleSql<Query>,
  config?: { isolationLevel?: "read committed" | "repeatable read" | "serializable" | undefined },
): TransactionSource<Tx> {
  checkIsolation(config?.isolationLevel, "isolationLevel");
  return {
    style: "dollar",
    open: () =>
      openCallback<Tx>(
        (inside) => db.transaction(inside, config as never),
        async (given, text, params) => {
          const { strings, values } = asTemplate(text, params);
          const answer = await (given as { execute(query: Query): Promise<unknown> }).execute(sql(strings, ...values));
          return firstColumn(Array.isArray(answer) ? answer : (answer as { rows?: unknown }).rows);
        },
      ),
  };
}
