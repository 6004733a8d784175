/** Drivers whose transactions are a callback: COMMIT is its return. The callback is held open until the engine has decided. */

import { TransactionFailed } from "../errors_gen.js";
import type { OpenTransaction } from "../transaction_source.js";

class RolledBack extends Error {
  override readonly name = "RolledBack";
}

interface Gate {
  promise: Promise<void>;
  open: () => void;
  fail: (error: Error) => void;
}

function gate(): Gate {
  let open: () => void = () => undefined;
  let fail: (error: Error) => void = () => undefined;
  const promise = new Promise<void>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}

/** `begin` runs its argument inside a transaction, as `sql.begin`, `db.transaction` and `$transaction` do. */
export async function openCallback<T>(
  begin: (inside: (given: T) => Promise<void>) => Promise<unknown>,
  guard: (given: T, sql: string, params: readonly (string | null)[]) => Promise<unknown>,
): Promise<OpenTransaction<T>> {
  const decided = gate();
  let ended: Promise<unknown> = Promise.resolve();
  const given = await new Promise<T>((resolve, reject) => {
    ended = begin((inside) => {
      resolve(inside);
      return decided.promise;
    });
    // Before it is open this is the failure to connect; later it is heard where it is awaited.
    ended.catch(reject);
  });
  let over = false;
  return {
    given,
    guard: (sql, params) => guard(given, sql, params),
    async commit(): Promise<void> {
      over = true;
      decided.open();
      await ended;
    },
    async rollback(): Promise<void> {
      if (over) return;
      over = true;
      const rolledBack = new RolledBack("rolled back by the engine");
      decided.fail(rolledBack);
      await ended.catch((error: unknown) => {
        if (error !== rolledBack && !(error instanceof Error && error.message.includes(rolledBack.message))) throw error;
      });
    },
    close: () => undefined,
  };
}

/** Said by the guard, in place of what the driver would say of a transaction that is over. */
export function endedByItself(): TransactionFailed {
  return new TransactionFailed(
    "the function has ended its transaction itself, with a commit or rollback: what it did and its checkpoint can no longer commit together. Leave the end to the engine; a savepoint is fine",
  );
}

export function firstColumn(rows: unknown): unknown {
  const row: unknown = Array.isArray(rows) ? rows[0] : undefined;
  return typeof row === "object" && row !== null ? Object.values(row)[0] : undefined;
}

/** The parts of a `$1` text between its placeholders, as a template tag takes them, and its parameters in that order. */
export function asTemplate(sql: string, params: readonly (string | null)[]): { strings: TemplateStringsArray; values: (string | null)[] } {
  const parts = sql.split(/\$(\d+)/);
  const strings = parts.filter((_, index) => index % 2 === 0);
  const values = parts.filter((_, index) => index % 2 === 1).map((number) => params[Number(number) - 1] ?? null);
  return { strings: Object.assign(strings, { raw: strings }), values };
}
