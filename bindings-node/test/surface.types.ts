/** What compiles and what must not: checked by `npm run types`, never run. */

import { type Decimal, type Decoded, Everstep, type Finished, type InlineOptions, type NotEncodable, type Rows, type Run, type StandardSchema, pgTx } from "everstep";
import { Pool, type PoolClient } from "pg";
import { type } from "arktype";
import * as v from "valibot";
import * as z from "zod";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Equal<A, B>): void {
  // Only its type matters.
}

class Money {
  constructor(readonly cents: number) {}
  format(): string {
    return String(this.cents);
  }
}

interface Order {
  id: bigint;
  at: Date;
  note?: string;
  tags: readonly string[];
  price: Decimal;
}

const app = new Everstep();

// Plain data comes back as it is; what has no form does not.
same<Decoded<Order>, { id: bigint; at: Date; note?: string; tags: readonly string[]; price: Decimal }>(true);
same<Decoded<Map<string, Set<Buffer>>>, Map<string, Set<Uint8Array>>>(true);
same<Decoded<() => void>, NotEncodable<"a function">>(true);
same<Decoded<string | null>, string | null>(true);
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- A function without a result.
same<Decoded<void>, void>(true);

same<Decoded<[first: number, ...rest: Date[]]>, [first: number, ...rest: Date[]]>(true);
same<Decoded<[first: number, second?: string]>, [first: number, second?: string]>(true);
same<Decoded<readonly (Date | undefined)[]>, readonly Date[]>(true);
same<Decoded<{ a: 1 } | { b: Date | undefined }>, { a: 1 } | { b: Date }>(true);
enum Color {
  Red,
  Blue,
}
same<Decoded<Color>, Color>(true);
same<Decoded<string & { readonly brand: "id" }>, string & { readonly brand: "id" }>(true);
same<Decoded<never>, never>(true);
same<Decoded<unknown>, unknown>(true);

// Types that contain themselves have an end.
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Dated = Date | Dated[] | { [key: string]: Dated };
interface Tree {
  value: number;
  children?: Tree[];
}
same<Decoded<Json>, Json>(true);

// Types flow from workflow to handle.
const charge = app.step("charge", async (order: Order) => ({ payment: order.id, at: order.at }));
const ping = app.step("ping", async () => 1);
const checkout = app.workflow("checkout", async (order: Order, ctx) => {
  const payment = await charge(order);
  same<typeof payment, { payment: bigint; at: Date }>(true);
  const pinged: number = await ping();
  const both = await ctx.all([() => charge(order), () => ping()]);
  same<typeof both, [{ payment: bigint; at: Date }, number]>(true);
  const winner = await ctx.race([() => charge(order), () => ping()]);
  same<typeof winner, { payment: bigint; at: Date } | number>(true);
  const labels = await ctx.map("label", order.tags, (tag, step) => `${tag} ${step.idempotencyKey}`);
  same<typeof labels, string[]>(true);
  const sizes = await ctx.map(order.tags, async (tag, branch) => branch.runStep("size", () => tag.length));
  same<typeof sizes, number[]>(true);
  const message = await ctx.receive<{ text: string }>("topic");
  same<typeof message, { text: string } | null>(true);
  return { pinged, total: labels.length };
});

const echo = app.step("echo", async (json: Json) => ({ json, dated: json as unknown as Dated, tree: json as unknown as Tree }));
export const nested = app.workflow("nested", async (json: Json) => {
  const back = await echo(json);
  const again: Json = back.json;
  const dated: Dated = back.dated;
  const tree: Tree = back.tree;
  return { again, dated, tree };
});

export async function caller(order: Order): Promise<void> {
  const run = await checkout.start(order, { id: "a", deadline: { minutes: 5 } });
  same<typeof run, Run<{ pinged: number; total: number }>>(true);
  same<Awaited<ReturnType<typeof run.result>>, { pinged: number; total: number }>(true);
  // @ts-expect-error -- The input is missing.
  await checkout.start();
  // @ts-expect-error -- Another type than the workflow's.
  await checkout.start("order");
  // @ts-expect-error -- A misspelt option.
  await checkout.start(order, { ID: "a" });
  // @ts-expect-error -- A bare number is no duration.
  await run.result({ timeout: 5 });
  // @ts-expect-error -- Neither is a unit nobody knows.
  await run.result({ timeout: { fortnights: 1 } });
  // @ts-expect-error -- A policy that does not exist.
  app.step("a", async () => 1, { retries: 3 });
}

// Instances of classes with methods do not come back as what they were.
const price = app.step("price", async () => new Money(1));
export async function broken(): Promise<string> {
  const value = await price();
  const cents: number = value.cents;
  // @ts-expect-error -- The method was not recorded.
  return value.format() + String(cents);
}

// Schemas give the types.
const parsed = app.workflow("parsed", async (input) => ({ doubled: input.count * 2 }), { input: z.object({ count: z.number() }), output: z.object({ doubled: z.number() }) });
export async function schemas(): Promise<number> {
  // @ts-expect-error -- Not what the schema takes.
  await parsed.start({ count: "two" });
  return (await (await parsed.start({ count: 2 })).result()).doubled;
}
// The same of every vendor: what a schema changes on the way in is what the function sees, what it changes on the way out is what the caller sees.
const byZod = app.step("by zod", async (order) => ({ at: order.at.toISOString() }), { input: z.object({ at: z.string().transform((text) => new Date(text)) }), output: z.object({ at: z.coerce.date<string>() }) });
const byValibot = app.step("by valibot", async (order) => ({ count: order.count + 1 }), { input: v.object({ count: v.pipe(v.string(), v.transform(Number)) }), output: v.object({ count: v.number() }) });
const byArktype = app.workflow("by arktype", async (order) => ({ count: order.count + 1 }), { input: type({ count: "number", "note?": "string" }), output: type({ count: "number" }) });
export async function vendors(): Promise<void> {
  const zod = await byZod({ at: "2026-01-02T03:04:05Z" });
  same<typeof zod, { at: Date }>(true);
  const valibot = await byValibot({ count: "2" });
  same<typeof valibot, { count: number }>(true);
  const arktype = await (await byArktype.start({ count: 2 })).result();
  same<typeof arktype, { count: number }>(true);
  // @ts-expect-error -- Not what the schema takes.
  await byZod({ at: new Date() });
  // @ts-expect-error -- Not what the schema takes.
  await byValibot({ count: 2 });
  // @ts-expect-error -- Not what the schema takes.
  await byArktype.start({ count: "2" });
}
// @ts-expect-error -- Not what the schema gives.
app.workflow("wrong", async () => ({ doubled: "two" }), { output: z.object({ doubled: z.number() }) });

// Of steps that are not declared, too.
export const inline = app.workflow("inline", async (texts: string[], ctx) => {
  const dated = { output: z.coerce.date<string>() };
  const one = await ctx.runStep("one", () => "2026-01-02", dated);
  same<typeof one, Date>(true);
  const other = await app.runStep("other", () => "2026-01-02", { ...dated, key: "a" });
  same<typeof other, Date>(true);
  const all = await ctx.map("all", texts, (text) => text, dated);
  same<typeof all, Date[]>(true);
  // @ts-expect-error -- Not what the schema gives.
  await ctx.runStep("wrong", () => 5, dated);
  // A wrapper whose schema may be there or not, and options made before.
  const maybe = dated.output as typeof dated.output | undefined;
  const either = await ctx.runStep("either", () => "2026-01-02", { output: maybe, key: "a" });
  same<typeof either, string | Date>(true);
  const anything = dated.output as StandardSchema | undefined;
  const wrapped: number = await ctx.runStep("wrapped", () => 5, { output: anything });
  const prepared: InlineOptions = { output: dated.output, timeout: { seconds: 1 } };
  const by: number = await app.runStep("prepared", () => 5, prepared);
  const eithers = await ctx.map("eithers", texts, (text) => text, { output: maybe, limit: by + wrapped });
  same<typeof eithers, (string | Date)[]>(true);
  // What is unknown is what a schema is for.
  const load = async (): Promise<unknown> => JSON.parse("5") as unknown;
  const loaded = await ctx.runStep("loaded", load, dated);
  same<typeof loaded, Date>(true);
  const loads = await ctx.map("loads", texts, load, dated);
  same<typeof loads, Date[]>(true);
  const explicit: Date = await ctx.runStep<Date>("explicit", () => new Date(), { output: z.date() });
  const explicits: Date[] = await ctx.map<string, Date>("explicits", texts, () => explicit, { output: z.date() });
  // @ts-expect-error -- A misspelt option.
  await ctx.runStep("misspelt", () => explicits.length, { output: anything, timeOut: { seconds: 1 } });
  // @ts-expect-error -- Nor is it one of the items.
  await ctx.map("wrongs", texts, () => 5, dated);
  // @ts-expect-error -- A branch has no attempts.
  await ctx.map(texts, (text) => text, { retry: { maxAttempts: 2 } });
  return one;
});

// What is not set may be said so, as the environment says it.
const unset = process.env["DATABASE_URL"];
export const undefinedOptions = new Everstep({ database: unset, schema: unset, version: unset, slots: undefined, lease: { seconds: undefined } });
export async function undefinedEverywhere(): Promise<void> {
  app.queue("q", { limit: undefined, paused: undefined });
  app.step("s", async () => 1, { retry: { maxAttempts: undefined, nonRetryable: undefined }, atMostOnce: undefined });
  const run = await checkout.start({} as Order, { id: unset, queue: unset, dedup: { key: "k", scope: undefined }, retry: { initial: undefined }, onFinish: undefined });
  await app.runs({ workflow: unset, states: undefined, after: unset });
  await run.result({ timeout: undefined });
  await run.cancel({ by: unset, why: unset });
  await run.send("topic", 1, { idempotencyKey: unset });
  pgTx(new Pool(), { isolation: undefined });
}

// The transaction is the driver's own, or ours.
const reserve = app.transaction("reserve", pgTx(new Pool()), async (tx: PoolClient, order: Order) => (await tx.query<{ n: number }>("select 1 as n", [order.id])).rows[0]?.n ?? 0);
const own = app.transaction("own", async (tx, order: Order) => {
  const rows = await tx.execute<{ n: number }>("select 1 as n", order.id);
  same<typeof rows, Rows<{ n: number }>>(true);
  return rows.length;
});
export async function transactions(order: Order): Promise<number> {
  // @ts-expect-error -- A call has no id: that is for start.
  await reserve.options({ id: "order" })(order);
  return (await reserve.options({ retry: { maxAttempts: 2 }, timeout: { seconds: 1 } })(order)) + (await own(order));
}
// @ts-expect-error -- Rows and record commit together or not at all: there is no "at most once".
app.transaction("twice", async () => 1, { atMostOnce: true });

// What a workflow gets that is named by onFinish.
const report = app.workflow("report", async (of: Finished<number>) => (of.state === "succeeded" ? of.value : of.workflow));
app.workflow("reported", async () => 1, { onFinish: report });
app.workflow("charged", async () => 1, { onFinish: charge });
// @ts-expect-error -- Nobody declared it.
app.workflow("unreported", async () => 1, { onFinish: async () => 1 });
// @ts-expect-error -- A transaction is no run of its own.
app.workflow("reserved", async () => 1, { onFinish: reserve });

// What all and race take are functions.
app.workflow("promises", async (order: Order, ctx) => {
  // @ts-expect-error -- A promise has already started.
  await ctx.all([charge(order)]);
});

export const engineIsDisposable: AsyncDisposable = app;
