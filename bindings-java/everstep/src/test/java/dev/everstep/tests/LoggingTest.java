package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Everstep;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.event.Level;

/** What {@code ctx.log()} lets through while a run replays. */
@Timeout(60)
final class LoggingTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private static int count(String text, String word) {
    return text.split(word, -1).length - 1;
  }

  @Test
  void aReplayRepeatsWarningsOnlyHoweverALineIsWritten() {
    PrintStream before = System.err;
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    try (Everstep app = Everstep.open(TestDatabase.replayed()::apply)) {
      StepRef<Integer, Integer> step = app.step("step", Integer.class, Integer.class, n -> n);
      WorkflowRef<Integer, Integer> work =
          app.workflow(
              "work",
              Integer.class,
              Integer.class,
              (ctx, n) -> {
                ctx.log().info("plain {}", n);
                ctx.log().atInfo().addArgument(n).log("fluent {}");
                ctx.log().atLevel(Level.INFO).log("leveled");
                ctx.log().atWarn().log("warned");
                int sum = step.call(ctx, n);
                ctx.sleep(Duration.ofMillis(1));
                return sum + step.call(ctx, n);
              });
      app.launch();
      System.setErr(new PrintStream(said, true, StandardCharsets.UTF_8));
      assertEquals(4, work.start(2).result(LONG));
    } finally {
      System.setErr(before);
    }
    String lines = said.toString(StandardCharsets.UTF_8);
    for (String word : new String[] {"plain 2", "fluent 2", "leveled"}) {
      assertEquals(1, count(lines, word), lines);
    }
    assertTrue(count(lines, "warned") > 1, lines);
  }
}
