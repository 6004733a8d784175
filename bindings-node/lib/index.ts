/** Everstep: durable workflows on PostgreSQL or SQLite, in your own process. */

export { Everstep, type EverstepOptions, type StepOptions, type TransactionOptions, type WorkflowOptions } from "./app.js";
export { type BranchFunction, type InlineOptions, type MapOptions, type Values, WorkflowContext } from "./context.js";
export { EverstepError, RunError, SetupError, UsageError } from "./error_base.js";
export * from "./errors_gen.js";
export { Cancelled, type ErrorClass, type ErrorForm } from "./failures.js";
export type { Arguments, CallOptions, Reference, Startable, StartArguments, Step, TransactionStep, Workflow } from "./functions.js";
export { type Fields, type Level, Logger, type LogSink, setLogger } from "./logging.js";
export type { Attributes, Dedup, Policy, Retry, StartOptions } from "./options.js";
export { type Row, Rows, type SqlParameter, type SqlValue, Transaction } from "./own_transaction.js";
export { Run, type RunLike } from "./run.js";
export type { CancelOutcome, Finished, Page, QueueInfo, QueueOptions, ResumeOutcome, RunFilter, RunInfo, State, StepInfo } from "./runs.js";
export type { StandardSchema } from "./schema.js";
export { type DrizzleSql, drizzleTx } from "./sources/drizzle.js";
export { type KnexTransaction, knexTx } from "./sources/knex.js";
export { type KyselyControlled, kyselyTx } from "./sources/kysely.js";
export { type PgClient, type PgOptions, type PgPool, pgTx } from "./sources/pg.js";
export { type PostgresOptions, type PostgresSql, postgresTx } from "./sources/postgres.js";
export { type PrismaOptions, type PrismaTransaction, prismaTx } from "./sources/prisma.js";
export { StepContext } from "./step_context.js";
export type { Duration } from "./times.js";
export type { OpenTransaction, TransactionSource } from "./transaction_source.js";
export type { Decoded, NotEncodable } from "./types.js";
export { CalendarDate, Decimal, LocalDateTime, Timestamp, Uuid } from "./values.js";
