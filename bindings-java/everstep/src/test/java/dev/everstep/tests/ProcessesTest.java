package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.WorkflowRef;
import java.io.File;
import java.lang.ref.WeakReference;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Ends of processes and class loaders: no hang, no crash, no lost run. */
@Timeout(60)
final class ProcessesTest {
  @TempDir Path directory;

  private Process start(List<String> options, String mode) throws Exception {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    String library = System.getProperty("everstep.library");
    if (library != null) {
      command.add("-Deverstep.library=" + library);
    }
    command.addAll(options);
    command.addAll(
        List.of(
            "-cp",
            System.getProperty("java.class.path"),
            Programs.class.getName(),
            mode,
            directory.toString()));
    return new ProcessBuilder(command)
        .redirectErrorStream(true)
        .redirectOutput(ProcessBuilder.Redirect.appendTo(output().toFile()))
        .start();
  }

  private Path output() {
    return directory.resolve("output");
  }

  private int ended(Process process) throws Exception {
    assertTrue(process.waitFor(20, TimeUnit.SECONDS), "it hangs");
    return process.exitValue();
  }

  private void nextOneFinishes(String wanted) throws Exception {
    assertEquals(0, ended(start(List.of(), "finish")));
    String said = Files.readString(output());
    assertTrue(said.contains(wanted), said);
    assertFalse(said.contains("SIGSEGV") || said.contains("SIGABRT"), said);
  }

  @Test
  void systemExitInAStepEndsTheProcessAndTheNextOneGoesOn() throws Exception {
    assertEquals(3, ended(start(List.of(), "exit-in-a-step")));
    nextOneFinishes("finished 1");
  }

  @Test
  void theEndOfMainWithWorkInFlightIsTheEnd() throws Exception {
    assertEquals(0, ended(start(List.of(), "main-ends")));
    nextOneFinishes("finished 40");
  }

  @Test
  void sigtermUnderLoadHandsOver() throws Exception {
    Process process = start(List.of(), "killed");
    while (!Files.readString(output()).contains("started")) {
      assertTrue(process.isAlive(), Files.readString(output()));
      Thread.onSpinWait();
    }
    process.destroy();
    assertEquals(143, ended(process));
    nextOneFinishes("finished 40");
  }

  /** One application in a class loader of its own, as a container has it. */
  private WeakReference<ClassLoader> application(Path database) throws Exception {
    List<URL> path = new ArrayList<>();
    for (String entry : System.getProperty("java.class.path").split(File.pathSeparator, -1)) {
      path.add(Path.of(entry).toUri().toURL());
    }
    try (URLClassLoader loader =
        new URLClassLoader(path.toArray(new URL[0]), ClassLoader.getPlatformClassLoader())) {
      Class<?> type = loader.loadClass(Programs.class.getName());
      type.getMethod("runOne", String.class).invoke(null, "sqlite:" + database);
      return new WeakReference<>(loader);
    }
  }

  @Test
  void aClosedEnginesClassLoaderIsCollectedAndTheNextOneLoads() throws Exception {
    Programs.runOne("sqlite:" + directory.resolve("first.db"));
    List<WeakReference<ClassLoader>> loaders = new ArrayList<>();
    for (int round = 0; round < 3; round++) {
      loaders.add(application(directory.resolve("round-" + round + ".db")));
    }
    while (loaders.stream().anyMatch(loader -> loader.get() != null)) {
      System.gc();
      Thread.sleep(50);
    }
    assertNotNull(application(directory.resolve("last.db")));
  }

  @Test
  void aMissingLibrarySaysWhatWasLookedForAndWhere() throws Exception {
    Process process = start(List.of("-Deverstep.library=/nowhere/lib.so"), "finish");
    assertEquals(1, ended(process));
    String said = Files.readString(output());
    assertTrue(said.contains("/nowhere/lib.so") && said.contains("-Deverstep.library=FILE"), said);
  }

  @Test
  void tenThousandRunsWait() throws Exception {
    // Platform threads hold a thread a wait: there a thousand, released beyond a hundred.
    int count = Runtime.version().feature() >= 21 ? 10_000 : 1_000;
    try (Everstep app =
        Everstep.open(
            o ->
                o.database("sqlite:" + directory.resolve("many.db"))
                    .closeAtExit(false)
                    .setting("max_parked", 20_000)
                    .slots(200))) {
      WorkflowRef<Integer, Integer> waits =
          app.workflow(
              "waits", Integer.class, Integer.class, (ctx, n) -> ctx.receive("t", Integer.class));
      app.launch();
      List<Integer> all = IntStream.range(0, count).boxed().toList();
      List<Run<Integer>> runs = waits.startMany(all, n -> "w-" + n, o -> {});
      ExecutorService senders = Executors.newFixedThreadPool(64);
      for (Run<Integer> run : runs) {
        senders.execute(() -> run.send("t", 7));
      }
      senders.shutdown();
      for (Run<Integer> run : runs) {
        assertEquals(7, run.result(Duration.ofSeconds(60)));
      }
    }
  }
}
