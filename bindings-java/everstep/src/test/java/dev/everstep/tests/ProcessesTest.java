package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
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
import org.junit.jupiter.api.condition.EnabledForJreRange;
import org.junit.jupiter.api.condition.JRE;
import org.junit.jupiter.api.io.TempDir;

/** Ends of processes and class loaders: no hang, no crash, no lost run. */
@Timeout(60)
final class ProcessesTest {
  @TempDir Path directory;

  private Process start(List<String> options, String mode) throws Exception {
    return builder(List.of(), options, mode).start();
  }

  private ProcessBuilder builder(List<String> around, List<String> options, String mode) {
    List<String> command = new ArrayList<>(around);
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
        .redirectOutput(ProcessBuilder.Redirect.appendTo(output().toFile()));
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

  /** Its main thread waits in it: without that the process would have ended at once. */
  @Test
  void aWorkerServesUntilItIsToldToEndAndLetsItsStepsFinish() throws Exception {
    Process process = start(List.of(), "serve");
    while (!Files.readString(output()).contains("started")) {
      assertTrue(process.isAlive(), Files.readString(output()));
      Thread.onSpinWait();
    }
    process.destroy();
    assertEquals(143, ended(process));
    String said = Files.readString(output());
    assertTrue(said.contains("finished the step"), said);
  }

  @Test
  void aServingThreadIsEndedByACloseAndByAnInterrupt() throws Exception {
    for (boolean interrupted : new boolean[] {false, true}) {
      Everstep app =
          Everstep.open(o -> o.database("sqlite:" + directory.resolve(interrupted + ".db")));
      boolean[] kept = new boolean[1];
      boolean[] returned = new boolean[1];
      Thread server =
          new Thread(
              () -> {
                app.serve(Duration.ofSeconds(5));
                kept[0] = Thread.currentThread().isInterrupted();
                returned[0] = true;
              });
      server.start();
      while (!app.isRunning() || !"launched".equals(app.info().get("phase"))) {
        Thread.onSpinWait();
      }
      if (interrupted) {
        server.interrupt();
      } else {
        app.close();
      }
      server.join(20_000);
      assertFalse(server.isAlive());
      assertFalse(app.isRunning());
      assertTrue(returned[0]);
      assertEquals(interrupted, kept[0]);
    }
  }

  /** The launch waits, too. */
  @Test
  void anInterruptBeforeTheLaunchIsThereEndsServingToo() {
    Everstep app = Everstep.open(o -> o.database("sqlite:" + directory.resolve("early.db")));
    // Loads the library, which no interrupted thread can copy from the jar.
    app.info();
    Thread.currentThread().interrupt();
    app.serve(Duration.ofSeconds(5));
    assertTrue(Thread.interrupted());
    EverstepException closed = assertThrows(EverstepException.class, app::launch);
    assertEquals(ErrorCode.CLOSED, closed.code());
  }

  /** Whatever has no room, the thread that brings the answers goes on. */
  @Test
  void aHeapThatIsFullHangsNobody() throws Exception {
    Process process = builder(List.of(), List.of("-Xmx96m"), "memory").start();
    boolean over = process.waitFor(50, TimeUnit.SECONDS);
    process.destroyForcibly();
    String said = Files.readString(output());
    assertTrue(over, said);
    assertTrue(said.contains("small 1"), said);
  }

  @Test
  @EnabledForJreRange(min = JRE.JAVA_21)
  void aTimeoutThatIsOverBeforeTheThreadRunsStillCounts() throws Exception {
    assertEquals(0, ended(start(List.of("-Djdk.virtualThreadScheduler.parallelism=1"), "starved")));
    String said = Files.readString(output());
    assertTrue(said.contains("took longer than 200 ms"), said);
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
  void aMissingLibrarySaysSoEachTime() throws Exception {
    assertEquals(0, ended(start(List.of("-Deverstep.library=/nowhere/lib.so"), "unloadable")));
    String said = Files.readString(output());
    assertEquals(3, said.split("\\[config_invalid\\]", -1).length, said);
    assertEquals(3, said.split("-Deverstep.library=FILE", -1).length, said);
  }

  @Test
  void aLibraryOfAnotherPlatformIsNamed() throws Exception {
    Path library = Files.writeString(directory.resolve("libeverstep_java.so"), "no library");
    assertEquals(1, ended(start(List.of("-Deverstep.library=" + library), "finish")));
    String said = Files.readString(output());
    assertTrue(said.contains(library.toString()), said);
    assertEquals(1, ended(start(List.of("-Dos.arch=sparc"), "finish")));
    said = Files.readString(output());
    assertTrue(said.contains("this jar has no library for") && said.contains("-sparc"), said);
    assertTrue(said.contains("java.library.path"), said);
  }

  private static boolean isFilled(Path folder) throws java.io.IOException {
    try (var files = Files.list(folder)) {
      return files.findAny().isPresent();
    }
  }

  @Test
  void productionWithoutConfigurationIsRefused() throws Exception {
    for (String variable : List.of("EVERSTEP_ENV", "NODE_ENV", "KUBERNETES_SERVICE_HOST")) {
      ProcessBuilder builder = builder(List.of(), List.of(), "unconfigured");
      Path empty = Files.createDirectory(directory.resolve(variable));
      builder.directory(empty.toFile());
      builder.environment().remove("EVERSTEP_DATABASE_URL");
      builder.environment().put(variable, "production");
      assertEquals(1, ended(builder.start()));
      String said = Files.readString(output());
      assertTrue(said.contains("[no_database]") && said.contains("EVERSTEP_DATABASE_URL"), said);
      assertFalse(isFilled(empty));
      Files.delete(output());
    }
  }

  /** Runs {@code script} as root of a mount namespace of its own; skips where there is none. */
  private Process mounted(String script, List<String> options) throws Exception {
    List<String> inside = List.of("unshare", "--mount", "--map-root-user", "sh", "-c");
    List<String> probe = new ArrayList<>(inside);
    probe.add(script);
    probe.add("true");
    ProcessBuilder tried = new ProcessBuilder(probe).redirectErrorStream(true);
    tried.redirectOutput(ProcessBuilder.Redirect.DISCARD);
    try {
      assumeTrue(tried.start().waitFor() == 0, "no mount namespaces here");
    } catch (java.io.IOException error) {
      assumeTrue(false, "no unshare here");
    }
    List<String> around = new ArrayList<>(inside);
    around.add(script + " && \"$0\" \"$@\"");
    ProcessBuilder builder = builder(around, options, "finish");
    builder.environment().remove("XDG_CACHE_HOME");
    return builder.start();
  }

  @Test
  void aFolderThatAllowsNoExecutionIsPassedOver() throws Exception {
    Path home = Files.createDirectory(directory.resolve("home"));
    Path folder = Files.createDirectory(directory.resolve("tmp"));
    Path other = Files.createDirectory(directory.resolve("other"));
    String noexec = "mount -t tmpfs -o noexec none ";
    List<String> options = List.of("-Duser.home=" + home, "-Djava.io.tmpdir=" + folder);
    // The cache below the home directory does not do: the temporary folder does.
    assertEquals(0, ended(mounted(noexec + home, options)));
    assertTrue(isFilled(folder));
    // Neither does: the error names both, and what to do.
    String both = noexec + home + " && " + noexec + folder;
    assertEquals(1, ended(mounted(both, options)));
    String said = Files.readString(output());
    assertTrue(said.contains(home.toString()) && said.contains(folder.toString()), said);
    assertTrue(said.contains("-Deverstep.cache=DIRECTORY"), said);
    List<String> named = new ArrayList<>(options);
    named.add("-Deverstep.cache=" + other);
    assertEquals(0, ended(mounted(both, named)));
  }

  @Test
  void aReadOnlyRootNeedsOneDirectory() throws Exception {
    Path writable = Files.createDirectory(directory.resolve("writable"));
    // The test's own folder stays writable: the database is there.
    String readOnly =
        "mount --bind " + directory + " " + directory + " && mount -o remount,ro,bind /";
    List<String> options = List.of("-Duser.home=/", "-Djava.io.tmpdir=/");
    assertEquals(1, ended(mounted(readOnly, options)));
    String said = Files.readString(output());
    assertTrue(said.contains("cannot be written"), said);
    List<String> named = new ArrayList<>(options);
    named.add("-Deverstep.cache=" + writable);
    assertEquals(0, ended(mounted(readOnly, named)));
    assertTrue(isFilled(writable));
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
