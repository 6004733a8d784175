/** A checkout: steps, a transaction, a caught error, a durable sleep. The same program whether or not it was killed half way. */

import { Everstep } from "everstep";

const app = new Everstep("sqlite:quickstart.db");

interface Order {
  id: number;
  item: string;
  card: string;
}

class CardDeclined extends Error {
  constructor(readonly reason: string) {
    super(reason);
  }
}
app.error("card_declined", CardDeclined);

const reserve = app.transaction("reserve", async (tx, order: Order) => {
  // The row and the checkpoint commit together or not at all.
  await tx.execute("create table if not exists stock (item text, reserved bigint)");
  await tx.execute("insert into stock values ($1, $2)", order.item, 1);
  return (await tx.execute("select count(*) as reserved from stock")).scalar();
});

const charge = app.step(
  "charge",
  async (order: Order, step) => {
    // The outside world may see this twice after a crash: the key tells it.
    if (order.card === "stolen") throw new CardDeclined("reported stolen");
    return `payment ${order.id}, key of ${step.idempotencyKey.length} characters`;
  },
  { retry: { maxAttempts: 5, nonRetryable: [CardDeclined] } },
);

const checkout = app.workflow("checkout", async (order: Order, ctx) => {
  await reserve(order);
  try {
    const payment = await charge(order);
    await ctx.sleep({ milliseconds: 10 });
    return payment;
  } catch (error) {
    // The same class on the first run and on replay.
    if (error instanceof CardDeclined) return `refused: ${error.reason}`;
    throw error;
  }
});

async function main(): Promise<void> {
  await app.launch();
  const run = await checkout.start({ id: 1, item: "lamp", card: "valid" }, { id: "order-1" });
  console.log(await run.result({ timeout: { seconds: 30 } }));
  console.log(await (await checkout.start({ id: 2, item: "lamp", card: "stolen" }, { id: "order-2" })).result());
  console.log((await run.steps()).map((step) => step.name).join(", "));
  await app.close();
}

void main();

// Output:
// payment 1, key of 36 characters
// refused: reported stolen
// reserve, charge, sleep
