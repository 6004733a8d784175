import { checkNames } from "../options.js";
import type { TransactionSource } from "../transaction_source.js";
import { endedByItself, firstColumn } from "./callback.js";
import { checkIsolation } from "./isolation.js";

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

const KYSELY_OPTIONS: ReadonlySet<string> = new Set(["isolation"]);

let queries = 0;

/** Transactions on Kysely with its PostgreSQL dialect: the function gets a `ControlledTransaction`. */
export function kyselyTx<Tx extends KyselyControlled>(
  db: { startTransaction(): KyselyBuilder<Tx> },
  options: { isolation?: "read committed" | "repeatable read" | "serializable" | undefined } = {},
): TransactionSource<Tx> {
  checkNames(options, KYSELY_OPTIONS, "kyselyTx");
  checkIsolation(options.isolation, "isolation");
  return {
    style: "dollar",
    async open() {
      const builder = db.startTransaction();
      const transaction = await (typeof options.isolation === "string" ? builder.setIsolationLevel(options.isolation as never) : builder).execute();
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
          try {
            await transaction.commit().execute();
          } catch (error) {
            // Kysely keeps the connection of a COMMIT that failed, until it is told to roll back.
            await transaction
              .rollback()
              .execute()
              .catch(() => undefined);
            throw error;
          }
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
