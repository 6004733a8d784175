import type { TransactionSource } from "../transaction_source.js";
import { endedByItself, firstColumn } from "./callback.js";

/** `startTransaction()` of Kysely 0.28 and later, as far as it is used here. */
export interface KyselyControlled {
  executeQuery(query: never): Promise<{ rows: unknown[] }>;
  commit(): { execute(): Promise<unknown> };
  rollback(): { execute(): Promise<unknown> };
  readonly isCommitted?: boolean;
  readonly isRolledBack?: boolean;
}

interface KyselyBuilder<Tx> {
  setIsolationLevel(level: never): KyselyBuilder<Tx>;
  execute(): Promise<Tx>;
}

let queries = 0;

/** Transactions on Kysely with its PostgreSQL dialect: the function gets a `ControlledTransaction`. */
export function kyselyTx<Tx extends KyselyControlled>(
  db: { startTransaction(): KyselyBuilder<Tx> },
  options: { isolation?: "read committed" | "repeatable read" | "serializable" } = {},
): TransactionSource<Tx> {
  return {
    style: "dollar",
    async open() {
      const builder = db.startTransaction();
      const transaction = await (options.isolation === undefined ? builder : builder.setIsolationLevel(options.isolation as never)).execute();
      let over = false;
      return {
        given: transaction,
        async guard(sql, params) {
          if (transaction.isCommitted === true || transaction.isRolledBack === true) throw endedByItself();
          // What `CompiledQuery.raw` makes, without Kysely as a dependency of this package.
          const query = { sql, parameters: [...params], query: { kind: "RawNode", sqlFragments: [sql], parameters: [] }, queryId: { queryId: `everstep-${String(++queries)}` } };
          return firstColumn((await transaction.executeQuery(query as never)).rows);
        },
        async commit() {
          over = true;
          await transaction.commit().execute();
        },
        async rollback() {
          if (over) return;
          over = true;
          await transaction.rollback().execute();
        },
        close: () => undefined,
      };
    },
  };
}
