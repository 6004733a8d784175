package examples;

import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.StepContext;
import dev.everstep.StepInfo;
import dev.everstep.StepRef;
import dev.everstep.Transaction;
import dev.everstep.Workflow;
import dev.everstep.WorkflowContext;
import dev.everstep.WorkflowName;
import dev.everstep.WorkflowRef;
import java.time.Duration;

/** A checkout: steps, a transaction, a caught error, a durable sleep. */
public final class Quickstart {
  record Order(int id, String item, String card) {}

  static final class CardDeclined extends Exception {
    private static final long serialVersionUID = 1L;
    final String reason;

    CardDeclined(String reason) {
      super(reason);
      this.reason = reason;
    }
  }

  @WorkflowName("checkout")
  static final class Checkout implements Workflow<Order, String> {
    private final StepRef<Order, Long> reserve;
    private final StepRef<Order, String> charge;

    Checkout(Everstep app) {
      app.error("card_declined", CardDeclined.class);
      reserve = app.transaction("reserve", Order.class, Long.class, Checkout::reserve);
      charge =
          app.step(
              "charge",
              Order.class,
              String.class,
              Checkout::charge,
              options -> options.maxAttempts(5).nonRetryable(CardDeclined.class));
    }

    private static Long reserve(Transaction tx, Order order) {
      // The row and the checkpoint commit together or not at all.
      tx.execute("create table if not exists stock (item text, reserved bigint)");
      tx.execute("insert into stock values ($1, $2)", order.item(), 1);
      return (Long) tx.execute("select count(*) from stock").scalar();
    }

    private static String charge(StepContext step, Order order) throws CardDeclined {
      // The outside world may see this twice after a crash: the key tells it.
      String key = step.idempotencyKey();
      if (order.card().equals("stolen")) {
        throw new CardDeclined("reported stolen");
      }
      return "payment " + order.id() + ", key of " + key.length() + " characters";
    }

    @Override
    public String run(WorkflowContext ctx, Order order) {
      reserve.call(ctx, order);
      String payment;
      try {
        payment = charge.call(ctx, order, CardDeclined.class);
      } catch (CardDeclined error) { // the same class on the first run and on replay
        return "refused: " + error.reason;
      }
      ctx.sleep(Duration.ofMillis(10));
      return payment;
    }
  }

  /**
   * Runs it.
   *
   * @param arguments none
   */
  public static void main(String[] arguments) {
    try (Everstep app = Everstep.open("sqlite:quickstart.db")) {
      WorkflowRef<Order, String> checkout = app.register(new Checkout(app));
      app.launch();
      Run<String> run = checkout.start(new Order(1, "lamp", "valid"), o -> o.id("order-1"));
      System.out.println(run.result(Duration.ofSeconds(30)));
      Order stolen = new Order(2, "lamp", "stolen");
      System.out.println(checkout.start(stolen, o -> o.id("order-2")).result());
      System.out.println(run.steps().stream().map(StepInfo::name).toList());
    }
  }

  private Quickstart() {}
}

// Output:
// payment 1, key of 36 characters
// refused: reported stolen
// [reserve, charge, sleep]
