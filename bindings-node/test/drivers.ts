/** Each driver as tests use it: a source of transactions, and how one runs a statement. */

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { PrismaPg } from "@prisma/adapter-pg";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { drizzle as drizzlePostgres } from "drizzle-orm/postgres-js";
import knexOf from "knex";
import { Kysely, PostgresDialect, sql as kyselySql } from "kysely";
import pg from "pg";
import postgresOf from "postgres";
import { type TransactionSource, drizzleTx, knexTx, kyselyTx, pgTx, postgresTx, prismaTx } from "everstep";

type Execute = (text: string) => Promise<unknown>;

export interface Driver {
  /** `max`: connections of its pool. */
  source(url: string, max?: number): TransactionSource<any>;
  execute(tx: any): Execute;
}

const closing: (() => Promise<unknown>)[] = [];

export function pool(url: string, max = 4): pg.Pool {
  const made = new pg.Pool({ connectionString: url, max });
  made.on("error", () => undefined);
  // Drizzle and Kysely check clients out without listening to them: a lost connection would end the process (README, troubleshooting).
  made.on("connect", (client) => void client.on("error", () => undefined));
  closing.push(() => made.end());
  return made;
}

/** Made from test/prisma/schema.prisma by scripts/test.mjs. */
let PrismaClient: new (options: { adapter: PrismaPg }) => any;

/** Before the first source. */
export async function loadDrivers(): Promise<void> {
  ({ PrismaClient } = await import(pathToFileURL(join(__dirname, "prisma_client.mjs")).href));
}

/** Ends every pool that was made here. */
export async function closeDrivers(): Promise<void> {
  for (const close of closing) await close();
}

export const DRIVERS: Record<string, Driver> = {
  pg: { source: (url, max) => pgTx(pool(url, max)), execute: (tx: pg.PoolClient) => (text) => tx.query(text) },
  "pg, serializable": { source: (url, max) => pgTx(pool(url, max), { isolation: "serializable" }), execute: (tx: pg.PoolClient) => (text) => tx.query(text) },
  "postgres.js": {
    source: (url, max = 4) => {
      const sql = postgresOf(url, { max, onnotice: () => undefined });
      closing.push(() => sql.end());
      return postgresTx(sql);
    },
    execute: (tx: postgresOf.TransactionSql) => async (text) => tx.unsafe(text),
  },
  "drizzle on pg": { source: (url, max) => drizzleTx(drizzle(pool(url, max)), drizzleSql), execute: (tx) => (text) => tx.execute(drizzleSql.raw(text)) },
  "drizzle on postgres.js": {
    source: (url, max = 4) => {
      const sql = postgresOf(url, { max, onnotice: () => undefined });
      closing.push(() => sql.end());
      return drizzleTx(drizzlePostgres(sql), drizzleSql);
    },
    execute: (tx) => (text) => tx.execute(drizzleSql.raw(text)),
  },
  knex: {
    source: (url, max = 4) => {
      const made = knexOf({ client: "pg", connection: url, pool: { min: 0, max } });
      closing.push(() => made.destroy());
      return knexTx(made);
    },
    execute: (tx) => async (text) => tx.raw(text),
  },
  kysely: {
    source: (url, max = 4) => {
      const db = new Kysely<any>({ dialect: new PostgresDialect({ pool: pool(url, max) }) });
      return kyselyTx(db);
    },
    execute: (tx) => (text) => kyselySql.raw(text).execute(tx),
  },
  prisma: {
    source: (url, max = 4) => {
      const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url, max }) });
      closing.push(() => prisma.$disconnect());
      return prismaTx<any>(prisma, { timeout: 10_000 });
    },
    execute: (tx) => (text) => tx.$executeRawUnsafe(text),
  },
};
