import { type TransactionSource, isLost } from "../transaction_source.js";
import { firstColumn, openCallback } from "./callback.js";
import { checkIsolation } from "./isolation.js";

/** What an interactive transaction of Prisma hands out, as far as it is used here. */
export interface PrismaTransaction {
  $queryRawUnsafe(query: string, ...values: unknown[]): Promise<unknown>;
}

export interface PrismaOptions {
  /** Milliseconds a transaction may take; Prisma's own default of 5 s also holds the engine's last statement. */
  timeout?: number | undefined;
  /** Milliseconds to wait for a connection. */
  maxWait?: number | undefined;
  isolationLevel?: "ReadCommitted" | "RepeatableRead" | "Serializable" | undefined;
}

/** Interactive transactions of a Prisma client on PostgreSQL: the function gets its transaction client. */
export function prismaTx<Tx extends PrismaTransaction>(
  prisma: { $transaction(inside: (tx: Tx) => Promise<void>, options?: never): Promise<unknown> },
  options?: PrismaOptions,
): TransactionSource<Tx> {
  checkIsolation(options?.isolationLevel, "isolationLevel", ["ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"]);
  return {
    style: "dollar",
    async open() {
      const opened = await openCallback<Tx>(
        (inside) => prisma.$transaction(inside, options as never),
        async (given, text, params) => firstColumn(await given.$queryRawUnsafe(text, ...params)),
      );
      // Prisma keeps the failure of its ROLLBACK to itself.
      const isGone = async (): Promise<boolean> => {
        try {
          await opened.guard("select 1", []);
          return false;
        } catch (error) {
          return isLost(error);
        }
      };
      return { ...opened, isGone };
    },
  };
}
