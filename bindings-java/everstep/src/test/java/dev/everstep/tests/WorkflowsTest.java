package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Cancelled;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Outcome;
import dev.everstep.ResultTimeout;
import dev.everstep.Run;
import dev.everstep.RunCancelled;
import dev.everstep.RunFailed;
import dev.everstep.RunState;
import dev.everstep.StepFailed;
import dev.everstep.StepRef;
import dev.everstep.StepTimeout;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What workflows do, on both stores, and replayed before every step. */
@Timeout(60)
final class WorkflowsTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  static final class Declined extends Exception {
    private static final long serialVersionUID = 1L;
    final String reason;
    final int amount;

    Declined(String reason, int amount) {
      super("declined: " + reason);
      this.reason = reason;
      this.amount = amount;
    }
  }

  record Parcel(String id, List<Integer> weights, Instant at) {}

  private static Everstep open(TestDatabase database) {
    return Everstep.open(database::apply);
  }

  static java.util.stream.Stream<TestDatabase> databases() {
    return TestDatabase.all();
  }

  @ParameterizedTest
  @MethodSource("databases")
  void aStepRunsOnceAndItsValueIsWhatWasRecorded(TestDatabase database) {
    AtomicInteger calls = new AtomicInteger();
    try (Everstep app = open(database)) {
      StepRef<Parcel, Parcel> weigh =
          app.step(
              "weigh",
              Parcel.class,
              Parcel.class,
              parcel -> {
                calls.incrementAndGet();
                return new Parcel(parcel.id(), List.of(1, 2), Instant.EPOCH);
              });
      WorkflowRef<Parcel, Parcel> send =
          app.workflow(
              "send",
              Parcel.class,
              Parcel.class,
              (ctx, parcel) -> {
                Parcel out = weigh.call(ctx, parcel);
                ctx.sleep(Duration.ofMillis(5));
                return out;
              });
      app.launch();
      Run<Parcel> run = send.start(new Parcel("p", List.of(), Instant.now()), o -> o.id("p1"));
      assertEquals(new Parcel("p", List.of(1, 2), Instant.EPOCH), run.result(LONG));
      assertEquals(1, calls.get());
      Run<Parcel> again = send.start(new Parcel("p", List.of(), Instant.now()), o -> o.id("p1"));
      assertTrue(again.attached());
      assertEquals(run.key(), again.key());
      assertEquals(RunState.SUCCEEDED, run.status().state());
      assertEquals(List.of("weigh", "sleep"), run.steps().stream().map(s -> s.name()).toList());
      assertTrue(run.steps().get(0).location().startsWith("WorkflowsTest.java:"));
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void aDeclaredErrorIsRebuiltAndOthersAreStepFailed(TestDatabase database) {
    try (Everstep app = open(database)) {
      app.error("declined", Declined.class);
      StepRef<String, String> charge =
          app.step(
              "charge",
              String.class,
              String.class,
              card -> {
                if (card.equals("stolen")) {
                  throw new Declined("stolen", 7);
                }
                throw new java.io.IOException("no route");
              });
      WorkflowRef<String, List<String>> pay =
          app.workflow(
              "pay",
              TypeRef.of(String.class),
              new TypeRef<List<String>>() {},
              (ctx, in) -> {
                String first;
                try {
                  first = charge.call(ctx, "stolen", Declined.class);
                } catch (Declined error) {
                  first = error.reason + error.amount + error.getMessage();
                }
                ctx.sleep(Duration.ofMillis(1));
                StepFailed second = assertThrows(StepFailed.class, () -> charge.call(ctx, "valid"));
                StepFailed third = assertThrows(StepFailed.class, () -> charge.call(ctx, "stolen"));
                assertInstanceOf(Declined.class, third.getCause());
                return List.of(first, second.errorType() + " " + second.getMessage());
              });
      WorkflowRef<String, String> fails =
          app.workflow(
              "fails",
              String.class,
              String.class,
              (ctx, in) -> charge.call(ctx, "stolen", Declined.class));
      app.launch();
      assertEquals(
          List.of("stolen7declined: stolen", "IOException no route"), pay.start("x").result(LONG));
      RunFailed failed = assertThrows(RunFailed.class, () -> fails.start("x").result(LONG));
      assertEquals(7, assertInstanceOf(Declined.class, failed.getCause()).amount);
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void retriesTimeoutsAndBigErrors(TestDatabase database) {
    AtomicInteger attempts = new AtomicInteger();
    try (Everstep app = open(database)) {
      StepRef<Void, Integer> flaky =
          app.step(
              "flaky",
              Void.class,
              Integer.class,
              (step, in) -> {
                if (attempts.incrementAndGet() < 3) {
                  throw new IllegalStateException("not yet");
                }
                return step.attempt();
              },
              o -> o.maxAttempts(5).initialInterval(Duration.ofMillis(1)));
      StepRef<Void, Void> slow =
          app.step(
              "slow",
              Void.class,
              Void.class,
              in -> {
                Thread.sleep(60_000);
                return null;
              },
              o -> o.timeout(Duration.ofMillis(100)));
      StepRef<Void, Void> deep =
          app.step("deep", Void.class, Void.class, in -> dropped(recurse(0)));
      StepRef<Void, Void> huge =
          app.step(
              "huge",
              Void.class,
              Void.class,
              in -> {
                throw new OutOfMemoryError("of this test");
              });
      WorkflowRef<Void, List<String>> all =
          app.workflow(
              "all",
              TypeRef.of(Void.class),
              new TypeRef<List<String>>() {},
              (ctx, in) -> {
                String attempt = String.valueOf(flaky.call(ctx, null));
                StepTimeout timeout = assertThrows(StepTimeout.class, () -> slow.call(ctx, null));
                assertFalse(Thread.currentThread().isInterrupted());
                StepFailed overflow = assertThrows(StepFailed.class, () -> deep.call(ctx, null));
                StepFailed memory = assertThrows(StepFailed.class, () -> huge.call(ctx, null));
                return List.of(
                    attempt,
                    timeout.code().text(),
                    String.valueOf(overflow.errorType()),
                    String.valueOf(memory.errorType()));
              });
      app.launch();
      assertEquals(
          List.of("3", "step_timeout", "StackOverflowError", "OutOfMemoryError"),
          all.start(null).result(LONG));
    }
  }

  private static Void dropped(int depth) {
    assertTrue(depth > 0);
    return null;
  }

  @SuppressWarnings("InfiniteRecursion") // That is the point.
  private static int recurse(int depth) {
    return recurse(depth + 1) + 1;
  }

  @ParameterizedTest
  @MethodSource("databases")
  void branchesChildrenMessagesAndEvents(TestDatabase database) throws Exception {
    try (Everstep app = open(database)) {
      StepRef<Integer, Integer> twice = app.step("twice", Integer.class, Integer.class, n -> 2 * n);
      WorkflowRef<Integer, Integer> child =
          app.workflow("child", Integer.class, Integer.class, (ctx, n) -> twice.call(ctx, n));
      WorkflowRef<String, Map<String, Object>> parent =
          app.workflow(
              "parent",
              TypeRef.of(String.class),
              new TypeRef<Map<String, Object>>() {},
              (ctx, in) -> {
                List<Integer> mapped =
                    ctx.map(List.of(1, 2, 3), twice::call, o -> o.key(n -> "k/" + n).limit(2));
                int first =
                    ctx.any(
                        c -> {
                          throw new IllegalStateException("loses");
                        },
                        c -> twice.call(c, 5));
                int below = child.start(ctx, 21).result(ctx);
                ctx.setEvent("ready", mapped);
                String word = ctx.receive("word", String.class, LONG).orElseThrow();
                boolean late = ctx.receive("nothing", String.class, Duration.ofMillis(1)).isEmpty();
                return Map.of(
                    "map", mapped, "any", first, "child", below, "word", word, "late", late);
              });
      app.launch();
      Run<Map<String, Object>> run = parent.start("x", o -> o.id("talk"));
      assertEquals(List.of(2, 4, 6), run.getEvent("ready", Object.class, LONG).orElseThrow());
      assertThrows(ResultTimeout.class, () -> run.result(Duration.ofMillis(1)));
      app.run("talk").send("word", "hello", "once");
      Map<String, Object> out = run.resultAsync().get(30, TimeUnit.SECONDS);
      assertEquals(
          Map.of("map", List.of(2, 4, 6), "any", 10, "child", 42, "word", "hello", "late", true),
          out);
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void cancelInterruptsTheStepAndCleanUpRunsShielded(TestDatabase database) throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    AtomicInteger cleaned = new AtomicInteger();
    try (Everstep app = open(database)) {
      StepRef<String, Void> hang =
          app.step(
              "hang",
              String.class,
              Void.class,
              (step, in) -> {
                begun.countDown();
                new CountDownLatch(1).await();
                return null;
              });
      StepRef<String, Integer> clean =
          app.step("clean", String.class, Integer.class, in -> cleaned.incrementAndGet());
      WorkflowRef<String, Void> patient =
          app.workflow(
              "patient",
              String.class,
              Void.class,
              (ctx, in) -> {
                try {
                  return hang.call(ctx, in);
                } catch (Cancelled cancelled) {
                  assertThrows(Cancelled.class, () -> clean.call(ctx, "not shielded"));
                  ctx.shielded(inner -> clean.call(inner, in));
                  throw cancelled;
                }
              });
      app.launch();
      Run<Void> run = patient.start("x");
      assertTrue(begun.await(30, TimeUnit.SECONDS));
      assertEquals(Outcome.REQUESTED, run.cancel("test", "why not"));
      RunCancelled error = assertThrows(RunCancelled.class, () -> run.result(LONG));
      assertEquals("cancelled by test: why not", error.getMessage());
      assertEquals(1, cleaned.get());
      ExecutionException async =
          assertThrows(ExecutionException.class, () -> run.resultAsync().get(30, TimeUnit.SECONDS));
      assertInstanceOf(RunCancelled.class, async.getCause());
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void aContextBelongsToItsThreadAndEndsWithItsRun(TestDatabase database) throws Exception {
    try (Everstep app = open(database)) {
      StepRef<String, String> echo = app.step("echo", String.class, String.class, in -> in);
      dev.everstep.WorkflowContext[] kept = new dev.everstep.WorkflowContext[1];
      WorkflowRef<String, List<String>> leaks =
          app.workflow(
              "leaks",
              TypeRef.of(String.class),
              new TypeRef<List<String>>() {},
              (ctx, in) -> {
                kept[0] = ctx;
                String foreign =
                    java.util.concurrent.CompletableFuture.supplyAsync(
                            () -> code(() -> echo.call(ctx, "x")))
                        .join();
                String inside =
                    ctx.step("inline", String.class, step -> code(() -> echo.call(ctx, "x")));
                String outer = ctx.<String>all(c -> code(() -> echo.call(ctx, "x"))).get(0);
                Run<String> other = app.run("other", String.class);
                String unrecorded = code(() -> other.result());
                return List.of(foreign, inside, outer, unrecorded);
              });
      app.launch();
      assertEquals(
          List.of("foreign_thread", "outside_run", "foreign_thread", "outside_run"),
          leaks.start("x").result(LONG));
      assertEquals("foreign_thread", code(() -> echo.call(kept[0], "x")));
    }
  }

  private static String code(java.util.concurrent.Callable<?> call) {
    try {
      return String.valueOf(call.call());
    } catch (EverstepException error) {
      return error.code().text();
    } catch (Exception error) {
      return error.toString();
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void aSwallowedStopChangesNothing(TestDatabase database) {
    try (Everstep app = open(database)) {
      WorkflowRef<String, List<String>> greedy =
          app.workflow(
              "greedy",
              TypeRef.of(String.class),
              new TypeRef<List<String>>() {},
              (ctx, in) -> {
                String first;
                try {
                  ctx.sleep(Duration.ofMillis(20));
                  first = "slept";
                } catch (Throwable swallowed) {
                  first = "swallowed";
                }
                String second;
                try {
                  second = ctx.step("second", String.class, step -> "ran");
                } catch (Throwable swallowed) {
                  second = "swallowed";
                }
                return List.of(first, second);
              });
      app.launch();
      assertEquals(List.of("slept", "ran"), greedy.start("x").result(LONG));
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void twoEnginesInOneProcessKnowNothingOfEachOther(TestDatabase database) {
    try (Everstep one = open(database);
        Everstep two = open(TestDatabase.sqlite())) {
      StepRef<String, String> ofOne = one.step("s", String.class, String.class, in -> "one " + in);
      WorkflowRef<String, String> a =
          one.workflow("w", String.class, String.class, (ctx, in) -> ofOne.call(ctx, in));
      WorkflowRef<String, String> b =
          two.workflow(
              "w", String.class, String.class, (ctx, in) -> code(() -> ofOne.call(ctx, in)));
      one.launch();
      two.launch();
      assertEquals("one x", a.start("x").result(LONG));
      assertEquals(ErrorCode.OUTSIDE_RUN.text(), b.start("x").result(LONG));
    }
  }

  /** Not waited for, and not left running either. */
  @ParameterizedTest
  @MethodSource("databases")
  void aWaitForAPointInTimeEndsNoSoonerAndOnePassedAtOnce(TestDatabase database) {
    try (Everstep app = open(database)) {
      WorkflowRef<Instant, Instant> until =
          app.workflow(
              "until",
              Instant.class,
              Instant.class,
              (ctx, due) -> {
                ctx.sleepUntil(Instant.EPOCH);
                ctx.sleepUntil(due);
                return ctx.now();
              });
      WorkflowRef<Integer, Instant> forever =
          app.workflow(
              "long",
              Integer.class,
              Instant.class,
              (ctx, n) -> {
                ctx.sleepUntil(Instant.parse("2999-01-02T03:04:05Z"));
                return ctx.now();
              });
      app.launch();
      Instant due = Instant.now().plusMillis(300);
      Instant woken = until.start(due).result(LONG);
      assertFalse(woken.isBefore(due.truncatedTo(ChronoUnit.MICROS)), woken + " before " + due);
      Run<Instant> waits = forever.start(1);
      ResultTimeout late =
          assertThrows(ResultTimeout.class, () -> waits.result(Duration.ofMillis(500)));
      // 973 years on.
      assertTrue(late.getMessage().matches(".*wakes in 8[45]\\d{5} h.*"), late.getMessage());
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void theLosersOfARaceAreInterrupted(TestDatabase database) throws InterruptedException {
    CountDownLatch waits = new CountDownLatch(1);
    CountDownLatch interrupted = new CountDownLatch(1);
    try (Everstep app = open(database)) {
      WorkflowRef<String, String> race =
          app.workflow(
              "race",
              String.class,
              String.class,
              (ctx, in) ->
                  ctx.<String>race(
                      slow ->
                          slow.step(
                              "slow",
                              String.class,
                              step -> {
                                waits.countDown();
                                try {
                                  Thread.sleep(3_600_000);
                                } catch (InterruptedException interrupt) {
                                  interrupted.countDown();
                                  throw interrupt;
                                }
                                return "slow";
                              }),
                      quick ->
                          quick.step(
                              "quick",
                              String.class,
                              step -> {
                                waits.await();
                                return "quick";
                              })));
      app.launch();
      assertEquals("quick", race.start("x").result(LONG));
      assertTrue(interrupted.await(10, TimeUnit.SECONDS));
    }
  }
}
