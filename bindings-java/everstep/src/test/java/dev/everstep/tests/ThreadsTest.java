package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Everstep;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledForJreRange;
import org.junit.jupiter.api.condition.JRE;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The threads the user's code runs on. */
@Timeout(60)
final class ThreadsTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private record Seen(ClassLoader loader, String inherited, String name) {
    static Seen here(InheritableThreadLocal<String> local) {
      Thread thread = Thread.currentThread();
      return new Seen(thread.getContextClassLoader(), local.get(), thread.getName());
    }
  }

  /** Spring's developer tools and servers look classes up through the context class loader. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void runsSeeTheClassLoaderOfWhoMadeTheEngineAndNobodysThreadLocals(boolean platform)
      throws Exception {
    ClassLoader before = Thread.currentThread().getContextClassLoader();
    InheritableThreadLocal<String> user = new InheritableThreadLocal<>();
    List<AtomicReference<Seen>> seen =
        List.of(new AtomicReference<>(), new AtomicReference<>(), new AtomicReference<>());
    try (URLClassLoader own = new URLClassLoader(new URL[0], before)) {
      Thread.currentThread().setContextClassLoader(own);
      try (Everstep app =
          Everstep.open(
              o -> {
                TestDatabase.sqlite().apply(o);
                if (platform) {
                  o.virtualThreads(false);
                }
              })) {
        Thread.currentThread().setContextClassLoader(before);
        user.set("of the request that launched it");
        WorkflowRef<String, String> look =
            app.workflow(
                "look",
                String.class,
                String.class,
                (ctx, in) -> {
                  seen.get(0).set(Seen.here(user));
                  ctx.all(
                      inner -> {
                        seen.get(1).set(Seen.here(user));
                        return null;
                      });
                  return in;
                });
        app.launch();
        CompletableFuture<Void> ended =
            look.start("x").resultAsync().thenAccept(value -> seen.get(2).set(Seen.here(user)));
        ended.get(30, java.util.concurrent.TimeUnit.SECONDS);
        for (AtomicReference<Seen> one : seen.subList(0, 2)) {
          assertSame(own, one.get().loader);
          assertEquals(null, one.get().inherited);
          assertTrue(one.get().name.startsWith("everstep-run-"), one.get().name);
        }
      } finally {
        Thread.currentThread().setContextClassLoader(before);
      }
    }
  }

  @Test
  @EnabledForJreRange(min = JRE.JAVA_21)
  void noVirtualThreadIsPinned(@TempDir Path directory) throws Exception {
    Path file = directory.resolve("pinned.jfr");
    try (Recording recording = new Recording();
        Everstep app =
            Everstep.open(
                o -> {
                  TestDatabase.postgres().apply(o);
                  o.slots(1000);
                })) {
      StepRef<Integer, Integer> step = app.step("step", Integer.class, Integer.class, n -> n);
      StepRef<String, Integer> row =
          app.transaction(
              "row",
              String.class,
              Integer.class,
              (transaction, in) -> transaction.execute("select 1").size());
      WorkflowRef<Integer, Integer> work =
          app.workflow(
              "work",
              Integer.class,
              Integer.class,
              (ctx, n) -> {
                int sum = ctx.all(a -> step.call(a, n), b -> step.call(b, n)).size();
                ctx.sleep(Duration.ofMillis(1));
                return sum + row.call(ctx, "") + step.call(ctx, n);
              });
      recording.enable("jdk.VirtualThreadPinned").withThreshold(Duration.ZERO).withStackTrace();
      app.launch();
      // Loading a class pins whoever waits for it, once.
      work.start(1).result(LONG);
      recording.start();
      List<Integer> inputs = IntStream.range(0, 500).boxed().toList();
      for (var run : work.startMany(inputs, null, o -> {})) {
        run.result(LONG);
      }
      recording.stop();
      recording.dump(file);
    }
    List<RecordedEvent> pinned = RecordingFile.readAllEvents(file);
    assertTrue(pinned.isEmpty(), () -> pinned.size() + " times, first " + pinned.get(0));
  }

  @Test
  void answersToFuturesNobodyWaitsForAreNotKept() throws Exception {
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      WorkflowRef<String, String> waits =
          app.workflow(
              "waits", String.class, String.class, (ctx, in) -> ctx.receive("t", String.class));
      app.launch();
      var run = waits.start("x");
      CompletableFuture<String> kept = run.resultAsync();
      for (int count = 0; count < 1000; count++) {
        assertTrue(run.resultAsync().cancel(true));
      }
      // The one that is kept, and the run's own wait.
      int waiting = dev.everstep.Inside.waiting(app);
      assertTrue(waiting <= 2, waiting + " wait");
      run.send("t", "done");
      assertEquals("done", kept.get(30, java.util.concurrent.TimeUnit.SECONDS));
    }
  }

  /** The run did nothing wrong: it is given back, and goes on when there is a thread. */
  @Test
  void aBranchWithoutAThreadDoesNotFailItsRun() throws Exception {
    AtomicBoolean full = new AtomicBoolean();
    AtomicBoolean first = new AtomicBoolean(true);
    try (Everstep app =
        Everstep.open(
            o -> {
              TestDatabase.sqlite().apply(o);
              o.virtualThreads(false);
            })) {
      dev.everstep.Inside.threads(
          app,
          work -> {
            if (full.getAndSet(false)) {
              throw new OutOfMemoryError("unable to create native thread");
            }
            Thread thread = new Thread(work);
            thread.setDaemon(true);
            return thread;
          });
      WorkflowRef<String, String> forks =
          app.workflow(
              "forks",
              String.class,
              String.class,
              (ctx, in) -> {
                full.set(first.getAndSet(false));
                return ctx.all(branch -> in).get(0);
              });
      app.launch();
      assertEquals("x", forks.start("x").result(LONG));
      assertFalse(first.get());
    }
  }

  /** A program that swallows everything still loses nothing, and is told where. */
  @Test
  void aFutureThatSwallowsAStopIsHarmlessAndSaysTheLine() {
    PrintStream before = System.err;
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    TestDatabase database = TestDatabase.replayed();
    try (Everstep app = Everstep.open(database::apply)) {
      WorkflowRef<String, String> greedy =
          app.workflow(
              "greedy",
              String.class,
              String.class,
              (ctx, in) ->
                  CompletableFuture.completedFuture(in)
                      .thenApply(
                          value -> {
                            ctx.sleep(Duration.ofMillis(5));
                            return value + " slept";
                          })
                      .handle((value, error) -> error == null ? value : "swallowed")
                      .join());
      app.launch();
      System.setErr(new PrintStream(said, true, StandardCharsets.UTF_8));
      assertEquals("x slept", greedy.start("x").result(LONG));
    } finally {
      System.setErr(before);
    }
    String lines = said.toString(StandardCharsets.UTF_8);
    assertTrue(lines.contains("ThreadsTest.java:") && lines.contains("is ignored"), lines);
    assertFalse(lines.contains("swallowed"), lines);
  }
}
