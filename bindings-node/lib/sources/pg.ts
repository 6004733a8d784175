import { checkNames } from "../options.js";
import type { TransactionSource } from "../transaction_source.js";
import { endedByItself, firstColumn } from "./callback.js";
import { checkIsolation } from "./isolation.js";

/** A client of node-postgres, as far as it is used here. */
export interface PgClient {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>;
  release(error?: Error | boolean): void;
  /** I: none. Older versions do not tell. */
  getTransactionStatus?(): string | null;
  on(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
}

export interface PgOptions {
  /** Default: the database's own, READ COMMITTED unless it was changed. */
  isolation?: "read committed" | "repeatable read" | "serializable" | undefined;
}

/** A pool of node-postgres. Its `connect` has a second form with a callback, which is why the client's type is taken from it by hand. */
export interface PgPool {
  connect(): Promise<PgClient>;
}

const PG_OPTIONS: ReadonlySet<string> = new Set<keyof PgOptions>(["isolation"]);

type ClientOf<Pool extends PgPool> = Pool["connect"] extends { (): Promise<infer Client>; (callback: never): unknown } ? Client : Awaited<ReturnType<Pool["connect"]>>;

/** Transactions on a `Pool` of `pg`: the function gets a `PoolClient`. */
export function pgTx<Pool extends PgPool>(pool: Pool, options: PgOptions = {}): TransactionSource<ClientOf<Pool>> {
  checkNames(options, PG_OPTIONS, "pgTx");
  checkIsolation(options.isolation, "isolation");
  const begin = typeof options.isolation === "string" ? `begin isolation level ${options.isolation}` : "begin";
  return {
    style: "dollar",
    async open() {
      const client = await pool.connect();
      let broken: Error | undefined;
      // A client that is checked out and loses its connection emits `error`; without a listener that ends the process. The statement under way fails, too.
      const onError = (error: Error): void => {
        broken = error;
      };
      client.on("error", onError);
      const query = async (text: string, values?: unknown[]): Promise<unknown[]> => {
        try {
          return (await client.query(text, values)).rows;
        } catch (error) {
          // A connection whose COMMIT or ROLLBACK failed is in a state nobody knows: it must not go back into the pool.
          if (values === undefined) broken = error instanceof Error ? error : new Error(String(error));
          throw error;
        }
      };
      try {
        await query(begin);
      } catch (error) {
        client.removeListener("error", onError);
        client.release(true);
        throw error;
      }
      let over = false;
      let abandoned = false;
      return {
        given: client as ClientOf<Pool>,
        guard: async (sql, params) => {
          if (client.getTransactionStatus?.() === "I") {
            throw endedByItself();
          }
          return firstColumn(await query(sql, [...params]));
        },
        async commit() {
          over = true;
          await query("commit");
        },
        async rollback() {
          if (over) return;
          over = true;
          await query("rollback");
        },
        abandon() {
          // After a ROLLBACK the function's next statement would stand for itself: it gets a connection that is gone instead.
          over = abandoned = true;
          client.release(true);
        },
        close() {
          if (abandoned) return;
          client.removeListener("error", onError);
          client.release(broken);
        },
      };
    },
  };
}
