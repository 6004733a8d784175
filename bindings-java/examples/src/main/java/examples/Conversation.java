package examples;

import dev.everstep.Cancelled;
import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.RunCancelled;
import dev.everstep.StepRef;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.util.List;

/** Runs that talk: a child, messages with a timeout, events, and a cancel with its clean-up. */
public final class Conversation {
  private static final Duration HALF_A_MINUTE = Duration.ofSeconds(30);

  /**
   * Runs it.
   *
   * @param arguments none
   */
  public static void main(String[] arguments) {
    try (Everstep app = Everstep.open("sqlite:conversation.db")) {
      WorkflowRef<List<String>, Integer> count =
          app.workflow(
              "count",
              new TypeRef<List<String>>() {},
              TypeRef.of(Integer.class),
              (ctx, words) -> words.size());
      WorkflowRef<String, String> review =
          app.workflow(
              "review",
              String.class,
              String.class,
              (ctx, title) -> {
                List<String> words = List.of(title.split(" "));
                int number = count.start(ctx, words).result(ctx); // a child run
                ctx.setEvent("stage", number + " words wait for a reviewer");
                String verdict =
                    ctx.receive("verdict", String.class, HALF_A_MINUTE).orElse("nobody answered");
                return "'" + title + "': " + verdict;
              });
      StepRef<String, Void> withdraw =
          app.step(
              "withdraw",
              String.class,
              Void.class,
              title -> {
                System.out.println("withdrawn: " + title);
                return null;
              });
      WorkflowRef<String, Void> patient =
          app.workflow(
              "patient",
              String.class,
              Void.class,
              (ctx, title) -> {
                try {
                  ctx.setEvent("waiting", true);
                  return ctx.receive("never", Void.class);
                } catch (Cancelled cancelled) {
                  ctx.shielded(inner -> withdraw.call(inner, title));
                  throw cancelled;
                }
              });
      app.launch();

      Run<String> run = review.start("On durable things", o -> o.id("review-1"));
      System.out.println(run.getEvent("stage", String.class, HALF_A_MINUTE).orElseThrow());
      app.run("review-1").send("verdict", "accepted", "mail-77");
      System.out.println(run.result());

      Run<Void> waiting = patient.start("On waiting");
      while (waiting.getEvent("waiting", Boolean.class, HALF_A_MINUTE).isEmpty()) {
        System.out.println("it has not begun");
      }
      waiting.cancel("editor", "out of season");
      try {
        waiting.result();
      } catch (RunCancelled error) {
        System.out.println(error.getMessage());
      }
    }
  }

  private Conversation() {}
}

// Output:
// 3 words wait for a reviewer
// 'On durable things': accepted
// withdrawn: On waiting
// cancelled by editor: out of season
