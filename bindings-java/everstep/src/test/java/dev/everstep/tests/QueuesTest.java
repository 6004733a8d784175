package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Dedup;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.QueueInfo;
import dev.everstep.ResultTimeout;
import dev.everstep.Run;
import dev.everstep.RunCancelled;
import dev.everstep.RunOptions;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;

/** Queues are rows of the fleet's. */
@Timeout(60)
final class QueuesTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  @Test
  void aKeyHasALimitOfItsOwn() throws InterruptedException {
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      app.queue("orders", o -> o.keyLimit(1));
      Map<String, AtomicInteger> running =
          Map.of("x", new AtomicInteger(), "y", new AtomicInteger());
      AtomicInteger most = new AtomicInteger();
      CountDownLatch both = new CountDownLatch(2);
      StepRef<String, Integer> step =
          app.step(
              "step",
              String.class,
              Integer.class,
              key -> {
                int now = running.get(key).incrementAndGet();
                most.accumulateAndGet(now, Math::max);
                // One of each key at once: one key does not wait for the other.
                both.countDown();
                both.await();
                Thread.sleep(20);
                running.get(key).decrementAndGet();
                return now;
              });
      app.launch();
      List<Run<Integer>> runs = new ArrayList<>();
      for (String key : List.of("x", "x", "x", "x", "y", "y")) {
        runs.add(step.start(key, o -> o.queue("orders").fairnessKey(key)));
      }
      for (Run<Integer> run : runs) {
        assertEquals(1, run.result(Duration.ofSeconds(30)));
      }
      assertEquals(1, most.get());
    }
  }

  /** Paused, so that nothing begins before the test says so. */
  private static void deduplicated(BiConsumer<Everstep, WorkflowRef<Integer, Integer>> test) {
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      app.queue("orders", o -> o.limit(10));
      WorkflowRef<Integer, Integer> waits =
          app.workflow(
              "waits",
              Integer.class,
              Integer.class,
              (ctx, n) -> {
                ctx.setEvent("begun", n);
                return n + ctx.receive("go", Integer.class);
              });
      app.launch();
      app.pauseQueue("orders");
      test.accept(app, waits);
    }
  }

  private static void begins(Everstep app, Run<Integer> run, int n) {
    app.resumeQueue("orders");
    assertEquals(n, run.getEvent("begun", Integer.class, LONG).orElseThrow());
  }

  private static EverstepException refused(Executable start) {
    EverstepException error = assertThrows(EverstepException.class, start);
    assertEquals(ErrorCode.RUN_DEDUPLICATED, error.code(), error.getMessage());
    return error;
  }

  @Test
  void aKeyThatIsTakenWhileItsRunIsQueuedIsFreeOnceThatHasBegun() {
    deduplicated(
        (app, waits) -> {
          Consumer<RunOptions> once = o -> o.queue("orders").dedup(Dedup.whileQueued("k"));
          Run<Integer> first = waits.start(1, once);
          Run<Integer> second = waits.start(2, once);
          assertTrue(second.attached());
          assertEquals(first.key(), second.key());
          refused(
              () -> waits.start(2, o -> o.queue("orders").dedup(Dedup.whileQueued("k").reject())));
          begins(app, first, 1);
          assertFalse(waits.start(3, once).attached());
        });
  }

  @Test
  void aLaterStartTakesTheEarlierOnesPlaceUntilThatHasBegun() {
    deduplicated(
        (app, waits) -> {
          Consumer<RunOptions> last = o -> o.queue("orders").dedup(Dedup.untilDone("k").replace());
          Run<Integer> first = waits.start(1, last);
          Run<Integer> second = waits.start(2, last);
          assertThrows(RunCancelled.class, () -> first.result(LONG));
          begins(app, second, 2);
          refused(() -> waits.start(3, last));
          second.send("go", 5);
          assertEquals(7, second.result(LONG));
          assertFalse(waits.start(4, last).attached());
        });
  }

  @Test
  void aKeyIsTakenForAWhileAlsoWhenItsRunHasEnded() {
    deduplicated(
        (app, waits) -> {
          app.resumeQueue("orders");
          Consumer<RunOptions> hour = o -> o.dedup(Dedup.within("k", Duration.ofHours(1)));
          Run<Integer> first = waits.start(1, hour);
          first.send("go", 5);
          assertEquals(6, first.result(LONG));
          Run<Integer> again = waits.start(2, hour);
          assertTrue(again.attached());
          assertEquals(6, again.result(LONG));
          Consumer<RunOptions> brief = o -> o.dedup(Dedup.within("b", Duration.ofMillis(1)));
          Run<Integer> other = waits.start(3, brief);
          Run<Integer> next = waits.start(4, brief);
          while (next.attached()) {
            next = waits.start(4, brief);
          }
          assertNotEquals(other.key(), next.key());
        });
  }

  @Test
  void aPauseChangesNothingElseOfAQueue() {
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      app.queue("orders", o -> o.limit(3).keyLimit(2));
      WorkflowRef<Integer, Integer> echo =
          app.workflow("echo", Integer.class, Integer.class, (ctx, n) -> n);
      app.launch();
      app.pauseQueue("orders");
      QueueInfo paused = app.queues().get(0);
      assertTrue(paused.paused());
      assertEquals(3L, paused.limit());
      assertEquals(2L, paused.keyLimit());
      Run<Integer> run = echo.start(7, o -> o.queue("orders"));
      assertThrows(ResultTimeout.class, () -> run.result(Duration.ofMillis(200)));
      app.resumeQueue("orders");
      assertEquals(7, run.result(Duration.ofSeconds(30)));
      EverstepException unknown =
          assertThrows(EverstepException.class, () -> app.pauseQueue("ordres"));
      assertEquals(ErrorCode.UNKNOWN_QUEUE, unknown.code());
      assertTrue(unknown.getMessage().contains("orders"), unknown.getMessage());
    }
  }
}
