package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Everstep;
import dev.everstep.ResultTimeout;
import dev.everstep.Run;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.MDC;
import org.slf4j.event.Level;
import org.slf4j.helpers.BasicMDCAdapter;
import org.slf4j.spi.MDCAdapter;

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

  private static String said(Runnable work) {
    PrintStream before = System.err;
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    System.setErr(new PrintStream(said, true, StandardCharsets.UTF_8));
    try {
      work.run();
    } finally {
      System.setErr(before);
    }
    return said.toString(StandardCharsets.UTF_8);
  }

  /** The most common slip of the first hour: the wait would be for ever, without a word. */
  @Test
  void aWaitThatNothingHereWillEndSaysSoOnce() {
    String words = "engine that is not launched";
    for (boolean client : new boolean[] {false, true}) {
      try (Everstep app =
          Everstep.open(
              o -> {
                TestDatabase.sqlite().apply(o);
                if (client) {
                  o.client();
                }
              })) {
        app.migrate();
        WorkflowRef<Integer, Integer> work = app.reference("work", Integer.class, Integer.class);
        Run<Integer> run = work.start(1);
        String lines =
            said(
                () -> {
                  assertThrows(ResultTimeout.class, () -> run.result(Duration.ofMillis(20)));
                  assertThrows(
                      ExecutionException.class, () -> run.resultAsync(Duration.ZERO).get());
                });
        assertEquals(client ? 0 : 1, count(lines, words), lines);
      }
    }
  }

  /** The provider of the tests keeps no fields. */
  private static MDCAdapter keeping(MDCAdapter adapter) throws ReflectiveOperationException {
    Field field = MDC.class.getDeclaredField("MDC_ADAPTER");
    field.setAccessible(true);
    MDCAdapter before = (MDCAdapter) field.get(null);
    field.set(null, adapter);
    return before;
  }

  @Test
  void aStepsLinesSayWhoseTheyAre() throws ReflectiveOperationException {
    Map<String, String> seen = new ConcurrentHashMap<>();
    MDCAdapter before = keeping(new BasicMDCAdapter());
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      StepRef<Integer, Integer> step =
          app.step(
              "step",
              Integer.class,
              Integer.class,
              (ctx, n) -> {
                ctx.log()
                    .info(
                        "{}",
                        new Object() {
                          @Override
                          public String toString() {
                            seen.putAll(MDC.getCopyOfContextMap());
                            return "line";
                          }
                        });
                return n;
              });
      WorkflowRef<Integer, Integer> work =
          app.workflow("work", Integer.class, Integer.class, (ctx, n) -> step.call(ctx, n));
      app.launch();
      assertEquals(2, work.start(2).result(LONG));
    } finally {
      keeping(before);
    }
    assertEquals("work", seen.get("everstep.workflow"));
    assertEquals("step", seen.get("everstep.step"));
    assertEquals("1", seen.get("everstep.attempt"));
    assertEquals("false", seen.get("everstep.replaying"));
  }
}
