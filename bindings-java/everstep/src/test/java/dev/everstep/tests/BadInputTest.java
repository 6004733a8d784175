package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Branch;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Run;
import dev.everstep.RunFailed;
import dev.everstep.RunState;
import dev.everstep.StepRef;
import dev.everstep.TypeRef;
import dev.everstep.WaitInterrupted;
import dev.everstep.Workflow;
import dev.everstep.WorkflowContext;
import dev.everstep.WorkflowRef;
import java.io.InputStream;
import java.sql.Connection;
import java.time.Duration;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;

/** Every wrong call has a code and a text that says what to do. */
@Timeout(60)
final class BadInputTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private final Everstep app = Everstep.open(TestDatabase.sqlite()::apply);

  @AfterEach
  void close() {
    app.close(Duration.ofSeconds(1));
  }

  private static String refused(ErrorCode code, Executable call) {
    EverstepException error = assertThrows(EverstepException.class, call);
    assertEquals(code, error.code(), error.getMessage());
    return error.getMessage();
  }

  interface Shape {}

  record Holder(String name, InputStream stream) {}

  record Shaped(Shape shape) {}

  static final class NoConstructor {
    final String name;

    NoConstructor(String name, int length) {
      this.name = name.substring(length);
    }

    public String getName() {
      return name;
    }
  }

  @Test
  void typesThatCannotBeStoredAreNamedAtRegistration() {
    String stream =
        refused(
            ErrorCode.PAYLOAD_INVALID, () -> app.step("a", Holder.class, String.class, in -> ""));
    assertTrue(stream.contains("java.io.InputStream") && stream.contains(".stream"), stream);
    for (Class<?> type :
        List.of(Thread.class, Connection.class, Supplier.class, CompletableFuture.class)) {
      assertThrows(EverstepException.class, () -> app.step("b", String.class, type, in -> null));
    }
    assertTrue(
        refused(
                ErrorCode.PAYLOAD_INVALID,
                () -> app.step("c", Shaped.class, String.class, in -> ""))
            .contains("Shape"));
    assertTrue(
        refused(
                ErrorCode.PAYLOAD_INVALID,
                () -> app.step("d", NoConstructor.class, String.class, in -> ""))
            .contains("@JsonCreator"));
  }

  @Test
  @SuppressWarnings("rawtypes")
  void aGenericTypeNeedsItsToken() {
    String text =
        refused(ErrorCode.CONFIG_INVALID, () -> app.step("a", List.class, String.class, in -> ""));
    assertTrue(text.contains("new TypeRef<List<..>>() {}"), text);
  }

  private <T> void declareUnknown() {
    app.step("a", new TypeRef<List<T>>() {}, TypeRef.of(String.class), in -> "");
  }

  private <T> void declareUnknownArray() {
    app.step("a", TypeRef.of(String.class), new TypeRef<T[]>() {}, in -> null);
  }

  private <T> void declareUnknownWildcard() {
    app.step("a", TypeRef.of(String.class), new TypeRef<List<? extends T>>() {}, in -> null);
  }

  @Test
  void aTypeVariableIsNoType() {
    for (Executable declare :
        List.<Executable>of(
            this::declareUnknown, this::declareUnknownArray, this::declareUnknownWildcard)) {
      String text = refused(ErrorCode.CONFIG_INVALID, declare);
      assertTrue(text.contains("name it with a TypeRef"), text);
    }
  }

  sealed interface Sealed permits Alone {}

  record Alone(int size) implements Sealed {}

  @Test
  void anAbstractTypeIsToldHowToNameItsSubtypes() {
    String text =
        refused(
            ErrorCode.PAYLOAD_INVALID, () -> app.step("a", String.class, Sealed.class, in -> null));
    assertTrue(text.contains("@JsonSubTypes"), text);
  }

  static final class Raw<A, B> implements Workflow<A, B> {
    @Override
    public B run(WorkflowContext ctx, A input) {
      throw new IllegalStateException();
    }
  }

  @Test
  void aWorkflowClassSaysItsTypes() {
    refused(ErrorCode.CONFIG_INVALID, () -> app.register(new Raw<String, String>()));
    Workflow<String, String> lambda = (ctx, in) -> in;
    assertTrue(refused(ErrorCode.CONFIG_INVALID, () -> app.register(lambda)).contains("lambda"));
  }

  @Test
  void nullsAreNamed() {
    refused(ErrorCode.CONFIG_INVALID, () -> Everstep.open((String) null));
    refused(ErrorCode.CONFIG_INVALID, () -> app.step(null, String.class, String.class, in -> in));
    refused(ErrorCode.CONFIG_INVALID, () -> app.run((String) null));
    refused(ErrorCode.CONFIG_INVALID, () -> app.error("x", null));
    WorkflowRef<String, String> echo =
        app.workflow("echo", String.class, String.class, (ctx, in) -> in);
    TypeRef<String> none = null;
    String[] noNames = null;
    for (Executable call :
        List.<Executable>of(
            () -> app.run("id", none),
            () -> app.runOfKey("00000000-0000-0000-0000-000000000000", none),
            () -> app.reference("r", TypeRef.of(String.class), none),
            () -> app.migrationSql(null, null),
            () -> app.run("id").rewind(null, 3),
            () -> app.run("id").getEvent("key", none, null),
            () -> app.run("id").result((Duration) null),
            () -> app.runs(f -> f.states((RunState) null)),
            () -> app.runs(f -> f.states((RunState[]) null)),
            () -> Everstep.open(o -> o.queues(noNames)),
            () -> Everstep.open(o -> o.queues("a", null)),
            () -> echo.start("x", o -> o.attributes(null)))) {
      refused(ErrorCode.CONFIG_INVALID, call);
    }
    // A random id in place of the one that was meant would start the order twice.
    refused(ErrorCode.CONFIG_INVALID, () -> echo.start("x", o -> o.id(null)));
  }

  @Test
  void nullsInsideAWorkflowAreNamedToo() {
    TypeRef<String> none = null;
    Run<?> nobody = null;
    List<Branch<String>> nothing = null;
    WorkflowRef<String, String> work =
        app.workflow(
            "work",
            String.class,
            String.class,
            (ctx, in) -> {
              for (Executable call :
                  List.<Executable>of(
                      () -> ctx.step("s", none, step -> in),
                      () -> ctx.step("s", none, step -> in, o -> {}),
                      () -> ctx.receive("t", none),
                      () -> ctx.receive("t", none, LONG),
                      () -> ctx.getEvent(app.run("id"), "key", none, LONG),
                      () -> ctx.getEvent(nobody, "key", String.class, LONG),
                      () -> ctx.send(nobody, "t", in),
                      () -> ctx.map(List.of(1), (branch, n) -> n, null),
                      () -> ctx.all(nothing),
                      () -> ctx.any(nothing),
                      () -> ctx.race(nothing),
                      () -> ctx.all((Branch<String>[]) null),
                      () -> ctx.any((Branch<String>[]) null),
                      () -> ctx.race((Branch<String>[]) null))) {
                refused(ErrorCode.CONFIG_INVALID, call);
              }
              return in;
            });
    app.launch();
    assertEquals("x", work.start("x").result(LONG));
  }

  @Test
  void aCloseInsideARunIsRefusedAtOnce() {
    StepRef<String, String> step =
        app.step(
            "step",
            String.class,
            String.class,
            in -> refused(ErrorCode.CONFIG_INVALID, () -> app.close()));
    WorkflowRef<String, String> work =
        app.workflow(
            "work",
            String.class,
            String.class,
            (ctx, in) -> {
              refused(ErrorCode.CONFIG_INVALID, () -> app.close(Duration.ZERO));
              refused(ErrorCode.CONFIG_INVALID, () -> app.serve());
              ctx.all(branch -> refused(ErrorCode.CONFIG_INVALID, () -> app.close()));
              return step.call(ctx, in);
            });
    app.launch();
    String text = work.start("x").result(LONG);
    assertTrue(text.contains("from outside"), text);
    assertTrue(app.isRunning());
  }

  /** "As long as it takes" is no reason to take no time at all. */
  @Test
  void aGraceTooLongForANumberDrains() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    CountDownLatch go = new CountDownLatch(1);
    WorkflowRef<String, String> slow =
        app.workflow(
            "slow",
            String.class,
            String.class,
            (ctx, in) ->
                ctx.step(
                    "slow",
                    String.class,
                    step -> {
                      begun.countDown();
                      go.await();
                      return in;
                    }));
    app.launch();
    CompletableFuture<String> result = slow.start("x").resultAsync();
    begun.await();
    Thread closer = new Thread(() -> app.close(ChronoUnit.FOREVER.getDuration()));
    closer.start();
    while (app.isRunning()) {
      assertTrue(closer.isAlive(), "the close was refused");
    }
    go.countDown();
    assertEquals("x", result.get(30, TimeUnit.SECONDS));
    closer.join();
    refused(ErrorCode.CONFIG_INVALID, () -> app.close(null));
  }

  @Test
  void namesStatesAndOrderOfCalls() {
    app.step("one", String.class, String.class, in -> in);
    refused(
        ErrorCode.ALREADY_REGISTERED, () -> app.step("one", String.class, String.class, in -> in));
    refused(ErrorCode.ID_INVALID, () -> app.run("a\nb"));
    WorkflowRef<String, String> unknown = app.reference("nobody", String.class, String.class);
    app.launch();
    refused(ErrorCode.ALREADY_LAUNCHED, app::launch);
    refused(ErrorCode.REGISTERED_LATE, () -> app.step("two", String.class, String.class, in -> in));
    refused(ErrorCode.RUN_NOT_FOUND, () -> app.run("nothing").status());
    refused(ErrorCode.UNKNOWN_QUEUE, () -> app.pauseQueue("typo"));
    assertFalse(unknown.start("x", o -> o.id("waits")).attached());
    app.close(Duration.ZERO);
    refused(ErrorCode.CLOSED, () -> app.run("x"));
  }

  @Test
  void configurationIsChecked() {
    refused(
        ErrorCode.CONFIG_INVALID,
        () -> Everstep.open(o -> o.setting("colour", "red").database("sqlite:x.db")).launch());
    refused(ErrorCode.CONFIG_INVALID, () -> Everstep.open("mysql://host/db").launch());
    String text =
        assertThrows(
                EverstepException.class,
                () ->
                    Everstep.open(
                            o ->
                                o.database("postgresql://u:hunter2@127.0.0.1:1/db")
                                    .outageBudget(Duration.ofMillis(300)))
                        .launch())
            .toString();
    assertFalse(text.contains("hunter2"), text);
  }

  @Test
  void valuesThatCannotBeWrittenFailTheirStepAndNameIt() {
    StepRef<String, Object> cyclic =
        app.step(
            "cyclic",
            String.class,
            Object.class,
            in -> {
              List<Object> out = new ArrayList<>();
              out.add(out);
              return out;
            });
    WorkflowRef<String, String> run =
        app.workflow(
            "run",
            String.class,
            String.class,
            (ctx, in) -> {
              try {
                return String.valueOf(cyclic.call(ctx, in));
              } catch (EverstepException error) {
                return error.code().text() + " " + error.getMessage().contains("cyclic");
              }
            });
    WorkflowRef<String, Object> ends =
        app.workflow("ends", String.class, Object.class, (ctx, in) -> Thread.currentThread());
    app.launch();
    assertEquals("payload_invalid true", run.start("x").result(LONG));
    RunFailed failed = assertThrows(RunFailed.class, () -> ends.start("x").result(LONG));
    assertEquals(ErrorCode.PAYLOAD_INVALID, ((EverstepException) failed.getCause()).code());
  }

  @Test
  void anInterruptEndsAWaitFromOutsideAndIsKept() throws Exception {
    WorkflowRef<String, String> waits =
        app.workflow(
            "waits", String.class, String.class, (ctx, in) -> ctx.receive("t", String.class));
    app.launch();
    var run = waits.start("x");
    CountDownLatch asked = new CountDownLatch(1);
    CompletableFuture<Boolean> out = new CompletableFuture<>();
    Thread waiter =
        new Thread(
            () -> {
              asked.countDown();
              try {
                run.result();
                out.complete(false);
              } catch (WaitInterrupted interrupted) {
                out.complete(Thread.currentThread().isInterrupted());
              }
            });
    waiter.start();
    asked.await();
    waiter.interrupt();
    assertTrue(out.get(30, TimeUnit.SECONDS));
  }

  @Test
  void anInterruptOfTheUsersOwnDoesNotHoldUpAWorkflow() {
    StepRef<String, String> echo = app.step("echo", String.class, String.class, in -> in);
    WorkflowRef<String, Boolean> selfish =
        app.workflow(
            "selfish",
            String.class,
            Boolean.class,
            (ctx, in) -> {
              Thread.currentThread().interrupt();
              echo.call(ctx, in);
              ctx.sleep(Duration.ofMillis(5));
              return Thread.interrupted();
            });
    app.launch();
    assertTrue(selfish.start("x").result(LONG));
  }

  /** What is refused on the way to the engine leaves nothing behind. */
  @Test
  void aRefusedNameIsFreeAndARefusedRequestIsNotWaitedFor() {
    var run = app.run("nobody");
    String tooLong = "n".repeat(300);
    for (int attempt = 0; attempt < 2; attempt++) {
      EverstepException error =
          assertThrows(
              EverstepException.class,
              () -> app.step(tooLong, String.class, String.class, in -> in));
      assertEquals(ErrorCode.ID_INVALID, error.code(), error.getMessage());
    }
    refused(ErrorCode.ID_INVALID, () -> run.send("\ud800", "x"));
    assertEquals(0, dev.everstep.Inside.waiting(app));
  }

  /** Its catch is for errors of the program's; the end of the engine is none. */
  @Test
  void aCloseIsNoErrorToCatch() throws InterruptedException {
    CountDownLatch sleeps = new CountDownLatch(1);
    List<Throwable> seen = Collections.synchronizedList(new ArrayList<>());
    CountDownLatch ended = new CountDownLatch(1);
    WorkflowRef<String, String> work =
        app.workflow(
            "work",
            String.class,
            String.class,
            (ctx, in) -> {
              try {
                sleeps.countDown();
                ctx.sleep(Duration.ofHours(1));
              } catch (RuntimeException error) {
                seen.add(error);
              } finally {
                ended.countDown();
              }
              return in;
            });
    app.launch();
    work.start("x");
    sleeps.await();
    while (dev.everstep.Inside.waiting(app) == 0) {
      Thread.onSpinWait();
    }
    app.close(Duration.ZERO);
    assertTrue(ended.await(10, TimeUnit.SECONDS));
    assertEquals(List.of(), seen);
  }
}
