/** A client without a worker: it starts, inspects and awaits runs that another process executes. */

import { Everstep } from "everstep";

/** Stands for another process. */
async function worker(): Promise<Everstep> {
  const app = new Everstep("sqlite:client.db");
  app.queue("mail", { limit: 2 });
  app.step("deliver", async (address: string) => `delivered to ${address}`);
  await app.launch();
  return app;
}

async function main(): Promise<void> {
  const other = await worker();
  const client = new Everstep({ database: "sqlite:client.db", role: "client" });
  // A declared step is a job: one row, one commit.
  const deliver = client.reference<string, string>("deliver");
  const runs = await deliver.startMany(["ann", "bob", "cy"], { queue: "mail", attributes: { campaign: "may" }, id: (who) => `mail-${who}` });
  console.log(await Promise.all(runs.map((run) => run.result({ timeout: { seconds: 30 } }))));
  const page = await client.runs({ queue: "mail", attribute: ["campaign", "may"] });
  console.log(page.items.map((run) => `${run.id ?? ""} ${run.state}`).sort());
  await client.close();
  await other.close();
}

void main();

// Output:
// [ 'delivered to ann', 'delivered to bob', 'delivered to cy' ]
// [ 'mail-ann succeeded', 'mail-bob succeeded', 'mail-cy succeeded' ]
