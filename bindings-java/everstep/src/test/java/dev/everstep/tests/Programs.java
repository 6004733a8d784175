package dev.everstep.tests;

import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Run;
import dev.everstep.RunFailed;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.IntStream;

/** Programs of a process of their own: {@code MODE DIRECTORY}. */
public final class Programs {
  private static final int RUNS = 40;

  private final Path directory;
  private final Everstep app;
  private final WorkflowRef<Integer, Integer> work;
  private final WorkflowRef<Integer, Integer> exits;

  private Programs(Path directory) {
    this.directory = directory;
    this.app =
        Everstep.open(o -> o.database("sqlite:" + directory.resolve("everstep.db")).slots(RUNS));
    StepRef<Integer, Integer> step =
        app.step(
            "step",
            Integer.class,
            Integer.class,
            n -> {
              Thread.sleep(20);
              return n;
            });
    work =
        app.workflow(
            "work",
            Integer.class,
            Integer.class,
            (ctx, n) -> {
              int sum = 0;
              for (int index = 0; index < 50; index++) {
                sum += step.call(ctx, index);
              }
              return sum + n;
            });
    StepRef<Integer, Integer> exit =
        app.step(
            "exit",
            Integer.class,
            Integer.class,
            n -> {
              if (mark("exited")) {
                System.exit(3);
              }
              return n;
            });
    exits = app.workflow("exits", Integer.class, Integer.class, (ctx, n) -> exit.call(ctx, n));
  }

  /** True the first time. */
  private boolean mark(String name) throws java.io.IOException {
    try {
      Files.createFile(directory.resolve(name));
      return true;
    } catch (java.nio.file.FileAlreadyExistsException known) {
      return false;
    }
  }

  private List<Run<Integer>> startAll() {
    List<Integer> inputs = IntStream.range(0, RUNS).boxed().toList();
    return work.startMany(inputs, n -> "run-" + n, o -> {});
  }

  /** Many large values at once, in a heap that has no room for them. */
  private static void memory(Path directory) throws InterruptedException, TimeoutException {
    try (Everstep app =
        Everstep.open(o -> o.database("sqlite:" + directory.resolve("everstep.db")))) {
      WorkflowRef<Integer, String> large =
          app.workflow("large", Integer.class, String.class, (ctx, n) -> "x".repeat(8 << 20));
      WorkflowRef<Integer, Integer> small =
          app.workflow("small", Integer.class, Integer.class, (ctx, n) -> n);
      app.launch();
      // They keep their values, so that the heap fills up before the last one is there.
      List<CompletableFuture<String>> results = new ArrayList<>();
      try {
        for (int n = 0; n < 30; n++) {
          results.add(large.start(n).resultAsync());
        }
        CompletableFuture.allOf(results.toArray(new CompletableFuture<?>[0]))
            .get(30, TimeUnit.SECONDS);
      } catch (ExecutionException | EverstepException | OutOfMemoryError full) {
        // A start's own answer may be among those that had none, too.
        System.out.println("not every value had room");
      }
      results.clear();
      System.out.println("small " + small.start(1).result(Duration.ofSeconds(10)));
    }
  }

  /** The one carrier is busy when the job's time begins, and when it is over. */
  private static void starved(Path directory) {
    try (Everstep app =
        Everstep.open(o -> o.database("sqlite:" + directory.resolve("everstep.db")))) {
      CountDownLatch spins = new CountDownLatch(1);
      StepRef<Integer, Integer> spin =
          app.step(
              "spin",
              Integer.class,
              Integer.class,
              n -> {
                spins.countDown();
                long end = System.nanoTime() + 1_000_000_000L;
                while (System.nanoTime() < end) {
                  Thread.onSpinWait();
                }
                return n;
              });
      StepRef<Integer, Integer> sleeps =
          app.step(
              "sleeps",
              Integer.class,
              Integer.class,
              n -> {
                Thread.sleep(3_600_000);
                return n;
              },
              o -> o.timeout(Duration.ofMillis(200)));
      app.launch();
      Run<Integer> busy = spin.start(1);
      spins.await();
      try {
        sleeps.start(1).result(Duration.ofSeconds(10));
      } catch (RunFailed failed) {
        System.out.println("ended with " + failed.getMessage());
      }
      busy.result(Duration.ofSeconds(10));
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  /** Twice: an initialiser of a class says why it failed only once. */
  private static void unloadable(Path directory) {
    for (int attempt = 0; attempt < 2; attempt++) {
      try (Everstep app =
          Everstep.open(o -> o.database("sqlite:" + directory.resolve("everstep.db")))) {
        app.launch();
      } catch (EverstepException error) {
        System.out.println(error);
      }
    }
  }

  /** A step that takes longer than an exit without {@code serve} gives it. */
  private static void serve(Path directory) {
    Everstep app = Everstep.open(o -> o.database("sqlite:" + directory.resolve("everstep.db")));
    StepRef<Integer, Integer> step =
        app.step(
            "long",
            Integer.class,
            Integer.class,
            n -> {
              System.out.println("started");
              Thread.sleep(4000);
              System.out.println("finished the step");
              return n;
            });
    if (!Files.exists(directory.resolve("everstep.db"))) {
      step.start(1);
    }
    app.serve();
  }

  /** One run in an engine of its own; also called in another class loader. */
  public static void runOne(String database) {
    try (Everstep app = Everstep.open(o -> o.database(database))) {
      WorkflowRef<String, String> echo =
          app.workflow("echo", String.class, String.class, (ctx, in) -> in + ctx.uuid());
      app.launch();
      echo.start("x").result(Duration.ofSeconds(30));
    }
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("unconfigured")) {
      Everstep.open().launch();
      return;
    }
    if (arguments[0].equals("memory")) {
      memory(Path.of(arguments[1]));
      return;
    }
    if (arguments[0].equals("unloadable")) {
      unloadable(Path.of(arguments[1]));
      return;
    }
    if (arguments[0].equals("serve")) {
      serve(Path.of(arguments[1]));
      return;
    }
    if (arguments[0].equals("starved")) {
      starved(Path.of(arguments[1]));
      return;
    }
    Programs program = new Programs(Path.of(arguments[1]));
    program.app.launch();
    switch (arguments[0]) {
      case "exit-in-a-step" -> program.exits.start(1, o -> o.id("exits")).result();
      case "main-ends" -> program.startAll();
      case "killed" -> {
        program.startAll();
        System.out.println("started");
        Thread.sleep(60_000);
      }
      case "finish" -> {
        List<Run<Integer>> runs = new ArrayList<>(program.startAll());
        if (Files.exists(program.directory.resolve("exited"))) {
          runs = List.of(program.exits.start(1, o -> o.id("exits")));
        }
        for (Run<Integer> run : runs) {
          run.result(Duration.ofSeconds(60));
        }
        System.out.println("finished " + runs.size());
        program.app.close();
      }
      default -> throw new IllegalArgumentException(arguments[0]);
    }
  }
}
