/** Runs that talk: a child, messages with a timeout, events, and a cancel with its clean-up. */

import { Cancelled, Everstep, RunCancelled } from "everstep";

const app = new Everstep("sqlite:conversation.db");

const count = app.workflow("count", async (words: string[]) => words.length);

const review = app.workflow("review", async (title: string, ctx) => {
  const words = await (await ctx.start(count, title.split(" "))).result(); // a child run
  await ctx.setEvent("stage", `${words} words wait for a reviewer`);
  const verdict = await ctx.receive<string>("verdict", { timeout: { seconds: 30 } });
  return `"${title}": ${verdict ?? "nobody answered"}`;
});

const withdraw = app.step("withdraw", async (title: string) => {
  console.log(`withdrawn: ${title}`);
});

const patient = app.workflow("patient", async (title: string, ctx) => {
  try {
    await ctx.setEvent("waiting", true);
    await ctx.receive("never");
  } catch (error) {
    if (error instanceof Cancelled) await ctx.shielded(() => withdraw(title));
    throw error;
  }
});

async function main(): Promise<void> {
  await app.launch();
  const run = await review.start("On durable things", { id: "review-1" });
  console.log(await run.getEvent("stage", { timeout: { seconds: 30 } }));
  await app.send("review-1", "verdict", "accepted", { idempotencyKey: "mail-77" });
  console.log(await run.result());

  const other = await patient.start("On waiting");
  await other.getEvent("waiting", { timeout: { seconds: 30 } });
  await other.cancel({ by: "editor", why: "out of season" });
  await other.result().catch((error: unknown) => {
    if (error instanceof RunCancelled) console.log(error.message);
  });
  await app.close();
}

void main();

// Output:
// 3 words wait for a reviewer
// "On durable things": accepted
// withdrawn: On waiting
// cancelled by editor: out of season
