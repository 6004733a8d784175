/** all, map, any, race; and plain `Promise.all`, which replays as it ran. */

import { setTimeout as pause } from "node:timers/promises";
import { Everstep } from "everstep";

const app = new Everstep("sqlite:parallel.db");

const fetchPage = app.step("fetch", async (page: string) => {
  if (page === "slow") await pause(10);
  if (page === "missing") throw new RangeError(page);
  return page.length;
});

const crawl = app.workflow("crawl", async (pages: string[], ctx) => {
  const sizes = await ctx.map(pages, (page) => fetchPage(page), { key: (page) => page, limit: 2 });
  const both = await ctx.all([() => fetchPage("a"), () => fetchPage("bb")]);
  const first = await ctx.any([() => fetchPage("missing"), () => fetchPage("there")]);
  const winner = await ctx.race([() => fetchPage("here"), (branch) => branch.sleep({ hours: 1 })]);
  const plain = await Promise.all([fetchPage("slow"), fetchPage("quick")]);
  return [sizes, both, first, winner, plain];
});

async function main(): Promise<void> {
  await app.launch();
  const run = await crawl.start(["one", "three", "seventeen"]);
  console.log(JSON.stringify(await run.result()));
  await app.close();
}

void main();

// Output:
// [[3,5,9],[1,2],5,4,[4,5]]
