package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Run;
import dev.everstep.RunFailed;
import dev.everstep.StepFailed;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.io.FileNotFoundException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What is recorded of an error, whoever made it, and what a run's end sets off. */
@Timeout(60)
final class ErrorsTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  static java.util.stream.Stream<TestDatabase> databases() {
    return TestDatabase.all();
  }

  static class OutOfStock extends EverstepException {
    private static final long serialVersionUID = 1L;
    final int left;

    OutOfStock(int left) {
      super(ErrorCode.STEP_FAILED, "only " + left);
      this.left = left;
    }
  }

  private static int deeper(int depth) {
    return depth == Integer.MIN_VALUE ? 0 : deeper(depth + 1) + 1;
  }

  @ParameterizedTest
  @MethodSource("databases")
  void theTypeOnRecordIsTheClassTheProgramThrewOrTheNameOfTheCode(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      Map<String, String> wanted =
          Map.of(
              "state", "IllegalStateException",
              "checked", "FileNotFoundException",
              "future", "IllegalArgumentException",
              "memory", "OutOfMemoryError",
              "stack", "StackOverflowError",
              // As the other languages call it, where each code has a class of its own.
              "cycle", "PayloadInvalid");
      StepRef<String, Object> fail =
          app.step(
              "fail",
              String.class,
              Object.class,
              how -> {
                List<Object> cycle = new ArrayList<>();
                cycle.add(cycle);
                return switch (how) {
                  case "state" -> throw new IllegalStateException("x");
                  case "checked" -> throw new FileNotFoundException("x");
                  case "future" ->
                      CompletableFuture.supplyAsync(
                              () -> {
                                throw new IllegalArgumentException("x");
                              })
                          .join();
                  case "memory" -> throw new OutOfMemoryError("Java heap space");
                  case "stack" -> deeper(0);
                  default -> cycle;
                };
              });
      WorkflowRef<String, Object> plain =
          app.workflow("plain", String.class, Object.class, (ctx, how) -> fail.call(ctx, how));
      WorkflowRef<String, Object> branch =
          app.workflow(
              "branch",
              String.class,
              Object.class,
              (ctx, how) -> ctx.all(inner -> fail.call(inner, how)));
      WorkflowRef<String, String> survives =
          app.workflow(
              "survives",
              String.class,
              String.class,
              (ctx, how) -> {
                try {
                  return "value " + fail.call(ctx, how);
                } catch (EverstepException error) {
                  return error.errorType();
                }
              });
      app.launch();
      wanted.forEach(
          (how, type) -> {
            for (WorkflowRef<String, Object> workflow : List.of(plain, branch)) {
              Run<Object> run = workflow.start(how);
              RunFailed failed = assertThrows(RunFailed.class, () -> run.result(LONG));
              assertEquals(type, run.status().errorType());
              EverstepException cause =
                  assertInstanceOf(EverstepException.class, failed.getCause());
              assertEquals(type, cause.errorType());
            }
            assertEquals(type, survives.start(how).result(LONG));
          });
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void aDeclaredErrorMayExtendTheEnginesBase(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      app.error("out_of_stock", OutOfStock.class);
      StepRef<Integer, Integer> take =
          app.step(
              "take",
              Integer.class,
              Integer.class,
              n -> {
                throw new OutOfStock(n);
              });
      WorkflowRef<Integer, Integer> caught =
          app.workflow(
              "caught",
              Integer.class,
              Integer.class,
              (ctx, n) -> {
                try {
                  return take.call(ctx, n);
                } catch (OutOfStock error) {
                  return -error.left;
                }
              });
      WorkflowRef<Integer, Integer> passed =
          app.workflow("passed", Integer.class, Integer.class, (ctx, n) -> take.call(ctx, n));
      app.launch();
      assertEquals(-3, caught.start(3).result(LONG));
      Run<Integer> run = passed.start(4);
      RunFailed failed = assertThrows(RunFailed.class, () -> run.result(LONG));
      assertEquals(4, assertInstanceOf(OutOfStock.class, failed.getCause()).left);
      assertEquals("OutOfStock", run.status().errorType());
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void anErrorsCodeIsAName(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      for (String bad : List.of("", "x".repeat(256), "a\nb", "a\ud800")) {
        EverstepException error =
            assertThrows(EverstepException.class, () -> app.error(bad, OutOfStock.class));
        assertEquals(ErrorCode.ID_INVALID, error.code());
      }
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void onFinishStartsWhateverTheEnd(TestDatabase database) throws Exception {
    BlockingQueue<Map<?, ?>> ends = new LinkedBlockingQueue<>();
    try (Everstep app = Everstep.open(database::apply)) {
      app.step(
          "tell",
          Object.class,
          Boolean.class,
          end -> {
            ends.add((Map<?, ?>) end);
            return true;
          });
      WorkflowRef<String, String> work =
          app.workflow(
              "work",
              String.class,
              String.class,
              (ctx, how) -> {
                if (how.equals("fails")) {
                  throw new IllegalStateException("no");
                }
                return how.equals("waits") ? ctx.receive("never", String.class) : how;
              },
              o -> o.onFinish("tell"));
      WorkflowRef<String, String> quiet =
          app.workflow("quiet", String.class, String.class, (ctx, in) -> in);
      app.launch();

      Run<String> done = work.start("done");
      Map<?, ?> end = next(ends);
      assertEquals(done.key(), end.get("run"));
      assertEquals("work", end.get("workflow"));
      assertEquals("succeeded", end.get("state"));
      assertEquals("done", end.get("value"));

      work.start("fails");
      end = next(ends);
      assertEquals("failed", end.get("state"));
      assertEquals("IllegalStateException", ((Map<?, ?>) end.get("value")).get("type"));

      Run<String> waits = work.start("waits");
      waits.cancel("ada", "over");
      assertEquals("cancelled", next(ends).get("state"));

      quiet.start("asked for at its start", o -> o.onFinish("tell"));
      assertEquals("quiet", next(ends).get("workflow"));
    }
  }

  /** An exception whose own methods throw. */
  static final class Hostile extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** Which of its methods. */
    private final String method;

    Hostile(String method) {
      super("hostile");
      this.method = method;
    }

    @Override
    public String getMessage() {
      if ("getMessage".equals(method)) {
        throw new IllegalStateException(method);
      }
      if ("an Error".equals(method)) {
        throw new NoClassDefFoundError(method);
      }
      return super.getMessage();
    }

    @Override
    public synchronized Throwable getCause() {
      if ("getCause".equals(method)) {
        throw new IllegalStateException(method);
      }
      return "itself".equals(method) ? this : null;
    }

    @Override
    public StackTraceElement[] getStackTrace() {
      return "getStackTrace".equals(method) ? null : super.getStackTrace();
    }
  }

  /** It gave the run back, and the same process took it again, without end. */
  @ParameterizedTest
  @MethodSource("databases")
  void anExceptionWhoseOwnMethodsThrowIsRecordedAllTheSame(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      StepRef<String, String> fail =
          app.step(
              "fail",
              String.class,
              String.class,
              method -> {
                throw new Hostile(method);
              });
      WorkflowRef<String, String> inStep =
          app.workflow("in_step", String.class, String.class, (ctx, in) -> fail.call(ctx, in));
      WorkflowRef<String, String> outside =
          app.workflow(
              "outside",
              String.class,
              String.class,
              (ctx, method) -> {
                throw new Hostile(method);
              });
      app.launch();
      for (String method :
          List.of("getMessage", "an Error", "getCause", "itself", "getStackTrace")) {
        for (WorkflowRef<String, String> workflow : List.of(inStep, outside)) {
          Run<String> run = workflow.start(method);
          assertThrows(RunFailed.class, () -> run.result(LONG));
          assertEquals("Hostile", run.status().errorType());
        }
      }
    }
  }

  private static Map<?, ?> next(BlockingQueue<Map<?, ?>> ends) throws InterruptedException {
    Map<?, ?> end = ends.poll(30, TimeUnit.SECONDS);
    assertTrue(end != null, "nothing was started at its end");
    return end;
  }

  @ParameterizedTest
  @MethodSource("databases")
  void theTypeOfAChildsErrorReachesItsParent(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      WorkflowRef<String, String> child =
          app.workflow(
              "child",
              String.class,
              String.class,
              (ctx, in) -> {
                throw new Refused(in);
              });
      WorkflowRef<String, String> parent =
          app.workflow(
              "parent",
              String.class,
              String.class,
              (ctx, in) -> {
                try {
                  return child.start(ctx, in).result(ctx);
                } catch (RunFailed failed) {
                  return ((StepFailed) failed.getCause()).errorType();
                }
              });
      app.launch();
      assertEquals("Refused", parent.start("x").result(LONG));
    }
  }

  static final class Refused extends RuntimeException {
    private static final long serialVersionUID = 1L;

    Refused(String message) {
      super(message);
    }
  }
}
