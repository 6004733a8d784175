import type { TransactionSource } from "../transaction_source.js";
import { endedByItself, firstColumn } from "./callback.js";
import { checkIsolation } from "./isolation.js";

/** A transaction of Knex, as far as it is used here. */
export interface KnexTransaction {
  raw(sql: string, bindings: never): PromiseLike<unknown>;
  commit(): unknown;
  rollback(): unknown;
  isCompleted?(): boolean;
  /** The outcome of COMMIT or ROLLBACK. */
  executionPromise?: PromiseLike<unknown>;
}

/** Transactions on Knex with the `pg` client: the function gets a `Knex.Transaction`. */
export function knexTx<Tx extends KnexTransaction>(
  knex: { transaction(config?: never): Promise<Tx> },
  config?: { isolationLevel?: "read committed" | "repeatable read" | "serializable" | undefined },
): TransactionSource<Tx> {
  checkIsolation(config?.isolationLevel, "isolationLevel");
  return {
    style: "question",
    async open() {
      const transaction = await knex.transaction(config as never);
      let over = false;
      return {
        given: transaction,
        async guard(sql, params) {
          if (transaction.isCompleted?.() === true) throw endedByItself();
          const answer = await transaction.raw(sql, [...params] as never);
          return firstColumn((answer as { rows?: unknown }).rows);
        },
        async commit() {
          over = true;
          await transaction.commit();
          // The promise above is fulfilled whatever the database answers.
          await transaction.executionPromise;
        },
        async rollback() {
          if (over) return;
          over = true;
          await transaction.rollback();
          await transaction.executionPromise;
        },
        async abandon() {
          // The handle itself refuses every query from here on.
          over = true;
          await transaction.rollback();
        },
        close: () => undefined,
      };
    },
  };
}
