package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Dedup;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Finished;
import dev.everstep.Outcome;
import dev.everstep.Run;
import dev.everstep.RunFailed;
import dev.everstep.RunInfo;
import dev.everstep.StepRef;
import dev.everstep.StepTimeout;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import java.math.BigInteger;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;

/** What is said about steps, calls and starts holds, or is refused. */
@Timeout(60)
final class OptionsTest {
  private static final Duration LONG = Duration.ofSeconds(30);
  private static final Duration SHORT = Duration.ofMillis(20);

  private final Everstep app = Everstep.open(TestDatabase.sqlite()::apply);

  @AfterEach
  void close() {
    app.close(Duration.ofSeconds(1));
  }

  private static EverstepException refused(ErrorCode code, Executable call) {
    EverstepException error = assertThrows(EverstepException.class, call);
    assertEquals(code, error.code(), error.getMessage());
    return error;
  }

  private StepRef<Integer, Integer> failing(AtomicInteger attempts) {
    return app.step(
        "failing",
        Integer.class,
        Integer.class,
        n -> {
          attempts.incrementAndGet();
          throw new IllegalStateException("again");
        },
        o -> o.maxAttempts(2).initialInterval(Duration.ofMillis(1)));
  }

  private static Integer sleeping(Integer n) throws InterruptedException {
    Thread.sleep(LONG.toMillis());
    return n;
  }

  @Test
  void whatMeansNothingIsRefused() {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Integer, Integer> step = failing(attempts);
    WorkflowRef<Integer, Integer> workflow =
        app.workflow("workflow", Integer.class, Integer.class, (ctx, n) -> n);
    List<Executable> calls =
        List.of(
            () -> workflow.start(1, o -> o.timeout(SHORT)),
            () -> app.step("x", int.class, int.class, n -> n, o -> o.maxAttempts(0)),
            () -> app.step("x", int.class, int.class, n -> n, o -> o.backoffFactor(0.5)),
            () -> app.step("x", int.class, int.class, n -> n, o -> o.backoffFactor(Double.NaN)),
            () -> app.step("x", int.class, int.class, n -> n, o -> o.timeout(SHORT.negated())),
            () -> step.start(1, o -> o.initialInterval(SHORT.negated())),
            () -> step.start(1, o -> o.timeout(SHORT.negated())),
            () -> step.start(1, o -> o.dedup(Dedup.within("key", SHORT.negated()))));
    for (Executable call : calls) {
      refused(ErrorCode.CONFIG_INVALID, call);
    }
  }

  @Test
  void oneCallIsTriedAsItSays() {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Integer, Integer> failing = failing(attempts);
    StepRef<Integer, Integer> slow =
        app.step("slow", Integer.class, Integer.class, OptionsTest::sleeping);
    WorkflowRef<Integer, Integer> more =
        app.workflow(
            "more",
            Integer.class,
            Integer.class,
            (ctx, n) -> failing.call(ctx, n, o -> o.maxAttempts(4)));
    WorkflowRef<Integer, Integer> fewer =
        app.workflow(
            "final",
            Integer.class,
            Integer.class,
            (ctx, n) -> failing.call(ctx, n, o -> o.nonRetryable(IllegalStateException.class)));
    WorkflowRef<Integer, Integer> shorter =
        app.workflow(
            "shorter",
            Integer.class,
            Integer.class,
            (ctx, n) -> slow.call(ctx, n, o -> o.timeout(SHORT)));
    app.launch();
    assertThrows(RunFailed.class, () -> more.start(1).result(LONG));
    assertEquals(4, attempts.getAndSet(0));
    assertThrows(RunFailed.class, () -> fewer.start(1).result(LONG));
    assertEquals(1, attempts.get());
    RunFailed late = assertThrows(RunFailed.class, () -> shorter.start(1).result(LONG));
    assertTrue(late.getCause() instanceof StepTimeout, late.toString());
  }

  @Test
  void aStartSaysHowLongItsJobTakesAndLeavesTheRestAsDeclared() {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Integer, Integer> failing = failing(attempts);
    StepRef<Integer, Integer> slow =
        app.step("slow", Integer.class, Integer.class, OptionsTest::sleeping);
    app.launch();
    RunFailed late =
        assertThrows(RunFailed.class, () -> slow.start(1, o -> o.timeout(SHORT)).result(LONG));
    assertTrue(late.getCause() instanceof StepTimeout, late.toString());
    assertThrows(RunFailed.class, () -> failing.start(1, o -> o.priority(3)).result(LONG));
    assertEquals(2, attempts.get());
  }

  @Test
  void aStartsRetriesAreLaidOverWhatWasDeclared() {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Integer, Integer> slow =
        app.step(
            "slow",
            Integer.class,
            Integer.class,
            n -> {
              attempts.incrementAndGet();
              return sleeping(n);
            },
            o -> o.timeout(SHORT).maxAttempts(4).initialInterval(Duration.ofMillis(1)));
    app.launch();
    RunFailed late =
        assertThrows(RunFailed.class, () -> slow.start(1, o -> o.maxAttempts(2)).result(LONG));
    // Its timeout and its waits are the declared ones still.
    assertTrue(late.getCause() instanceof StepTimeout, late.toString());
    assertEquals(2, attempts.get());
  }

  @Test
  void aNameThatLooksMistypedCanBeStarted() {
    app.workflow("checkout", String.class, String.class, (ctx, in) -> in);
    app.launch();
    WorkflowRef<String, String> mistyped = app.reference("chekcout", String.class, String.class);
    refused(ErrorCode.UNKNOWN_WORKFLOW, () -> mistyped.start("x"));
    mistyped.start("x", o -> o.unchecked());
  }

  static final class Gone extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  static final class Lost extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  @Test
  void aTakenNameSaysBothPlaces() {
    app.step("one", String.class, String.class, in -> in);
    app.error("gone", Gone.class);
    List<Executable> again =
        List.of(
            () -> app.step("one", String.class, String.class, in -> in),
            () -> app.error("gone", Lost.class));
    for (Executable call : again) {
      String text = refused(ErrorCode.ALREADY_REGISTERED, call).getMessage();
      assertEquals(3, text.split("OptionsTest.java:", -1).length, text);
    }
  }

  @Test
  void afterItsEndAnEngineTakesNoDeclarations() {
    app.close();
    refused(ErrorCode.CLOSED, () -> app.step("x", String.class, String.class, in -> in));
    refused(ErrorCode.CLOSED, () -> app.error("x", IllegalStateException.class));
    refused(ErrorCode.CLOSED, () -> app.queue("x", o -> {}));
  }

  @Test
  void anErrorNamesItsRun() {
    app.workflow(
        "asks",
        String.class,
        String.class,
        (ctx, id) ->
            assertThrows(EverstepException.class, () -> ctx.send(app.run(id), "topic", 1)).run());
    WorkflowRef<String, String> waits =
        app.workflow(
            "waits", String.class, String.class, (ctx, in) -> ctx.receive("never", String.class));
    app.launch();
    Run<String> run = waits.start("x");
    assertEquals(run.key(), refused(ErrorCode.RESULT_TIMEOUT, () -> run.result(SHORT)).run());
    ExecutionException late =
        assertThrows(ExecutionException.class, () -> run.resultAsync(SHORT).get());
    EverstepException cause = (EverstepException) late.getCause();
    assertEquals(ErrorCode.RESULT_TIMEOUT, cause.code());
    assertEquals(run.key(), cause.run());
    Run<?> nobody = app.run("nobody");
    for (Executable call :
        List.<Executable>of(
            nobody::status, nobody::steps, nobody::cancel, nobody::resume, nobody::retry)) {
      assertEquals(nobody.key(), refused(ErrorCode.RUN_NOT_FOUND, call).run());
    }
    WorkflowRef<String, String> asks = app.reference("asks", String.class, String.class);
    assertEquals(nobody.key(), asks.start("nobody").result(LONG));
    assertEquals(Outcome.NOT_POSSIBLE, run.retry());
    assertEquals(Outcome.NOT_POSSIBLE, run.resume());
    run.cancel();
  }

  enum Colour {
    RED
  }

  /** As a text of its own they would be found by nothing. */
  @Test
  void anAttributeIsAScalarOfJson() {
    WorkflowRef<Integer, Integer> work =
        app.workflow("work", Integer.class, Integer.class, (ctx, n) -> n);
    app.launch();
    for (Object value :
        List.of(
            Double.NaN,
            Float.POSITIVE_INFINITY,
            Colour.RED,
            UUID.randomUUID(),
            Instant.EPOCH,
            new byte[] {1},
            List.of(1),
            Map.of())) {
      String text =
          refused(
                  ErrorCode.PAYLOAD_INVALID,
                  () -> work.start(1, o -> o.attributes(Map.of("score", value))))
              .getMessage();
      assertTrue(text.contains("score"), text);
      refused(ErrorCode.PAYLOAD_INVALID, () -> app.runs(f -> f.attribute("score", value)));
    }
    Map<String, Object> kinds =
        Map.of("a", "x", "b", true, "c", (byte) 1, "d", 2.5, "e", BigInteger.ONE.shiftLeft(70));
    Run<Integer> run = work.start(1, o -> o.attributes(kinds));
    for (Map.Entry<String, Object> kind : kinds.entrySet()) {
      assertEquals(
          List.of(run.key()),
          app.runs(f -> f.attribute(kind.getKey(), kind.getValue())).items().stream()
              .map(RunInfo::key)
              .toList());
    }
  }

  @Test
  void whatIsStartedAtTheEndMayBeAReference() throws Exception {
    BlockingQueue<String> told = new LinkedBlockingQueue<>();
    StepRef<Finished, Boolean> report =
        app.step("report", Finished.class, Boolean.class, end -> told.add(end.workflow()));
    app.workflow("declared", Integer.class, Integer.class, (ctx, n) -> n, o -> o.onFinish(report));
    WorkflowRef<Integer, Integer> plain =
        app.workflow("plain", Integer.class, Integer.class, (ctx, n) -> n);
    app.launch();
    app.reference("declared", Integer.class, Integer.class).start(1).result(LONG);
    assertEquals("declared", told.poll(30, TimeUnit.SECONDS));
    plain.start(1, o -> o.onFinish(report)).result(LONG);
    assertEquals("plain", told.poll(30, TimeUnit.SECONDS));
    StepRef<Finished, Boolean> nothing = null;
    refused(ErrorCode.CONFIG_INVALID, () -> plain.start(1, o -> o.onFinish(nothing)));
  }

  @Test
  void aWorkflowAfterTheEndIsToldOfIt() throws Exception {
    WorkflowRef<Finished, String> after =
        app.workflow(
            "after",
            Finished.class,
            String.class,
            (ctx, end) -> {
              ctx.send(app.run("hears"), "end", end.workflow() + " " + end.state(), "once");
              ctx.send(app.run("hears"), "end", "again", "once");
              return end.value().toString();
            });
    WorkflowRef<String, List<String>> hears =
        app.workflow(
            "hears",
            new TypeRef<String>() {},
            new TypeRef<List<String>>() {},
            (ctx, in) ->
                List.of(
                    ctx.receive("end", String.class),
                    ctx.receive("end", String.class, SHORT).orElse("nothing")));
    WorkflowRef<String, String> ends =
        app.workflow("ends", String.class, String.class, (ctx, in) -> in);
    app.launch();
    Run<List<String>> heard = hears.start("x", o -> o.id("hears"));
    ends.start("x", o -> o.onFinish(after.name())).result(LONG);
    assertEquals(List.of("ends succeeded", "nothing"), heard.result(LONG));
    assertEquals(
        List.of("ends succeeded", "nothing"),
        app.runOfKey(heard.key(), new TypeRef<List<String>>() {}).result(LONG));
  }

  @Test
  void aRunKnowsWhatItWasStartedWith() {
    String parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Map<String, Object> attributes = Map.of("tenant", "a", "vip", true);
    StepRef<String, String> step =
        app.step(
            "step",
            String.class,
            String.class,
            (ctx, in) ->
                ctx.name()
                    + ctx.runId()
                    + ctx.runAttempt()
                    + ctx.attributes().equals(attributes)
                    + ctx.traceParent());
    WorkflowRef<String, String> told =
        app.workflow(
            "told",
            String.class,
            String.class,
            (ctx, in) ->
                ctx.attributes().equals(attributes) + ctx.traceParent() + step.call(ctx, in));
    app.launch();
    assertEquals(
        "true" + parent + "steptold1true" + parent,
        told.start("x", o -> o.id("told").attributes(attributes).trace(parent, null)).result(LONG));
  }
}
