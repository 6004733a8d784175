package dev.everstep.tests;

import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
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
