package dev.everstep.tests;

import dev.everstep.EngineOptions;
import java.io.IOException;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.stream.Stream;

/**
 * Both stores for every test. PostgreSQL: EVERSTEP_TEST_PG, or a private cluster for this process.
 */
public final class TestDatabase {
  private static String postgres;

  private final String name;
  private final String url;
  private final String schema =
      "t" + UUID.randomUUID().toString().replace("-", "").substring(0, 12);
  private final boolean replayed;

  private TestDatabase(String name, String url, boolean replayed) {
    this.name = name;
    this.url = url;
    this.replayed = replayed;
  }

  public static TestDatabase sqlite() {
    return new TestDatabase("sqlite", "sqlite:" + directory().resolve("everstep.db"), false);
  }

  /**
   * Runs are released at every wait and replayed before every step: each test is one of replay too.
   */
  public static TestDatabase replayed() {
    return new TestDatabase("replayed", "sqlite:" + directory().resolve("everstep.db"), true);
  }

  public static TestDatabase postgres() {
    return new TestDatabase("postgres", postgresUrl(), false);
  }

  public static Stream<TestDatabase> all() {
    return Stream.of(sqlite(), replayed(), postgres());
  }

  public void apply(EngineOptions options) {
    options.database(url).autoMigrate(true).closeAtExit(false);
    if (url.startsWith("postgresql:")) {
      options.schema(schema);
    }
    if (replayed) {
      options.replayAlways();
    }
  }

  public String url() {
    return url;
  }

  public String schema() {
    return schema;
  }

  public String jdbcUrl() {
    return url.replace("postgresql://everstep@", "jdbc:postgresql://") + "?user=everstep";
  }

  @Override
  public String toString() {
    return name;
  }

  static Path directory() {
    try {
      Path out = Files.createTempDirectory("everstep-java-test-");
      out.toFile().deleteOnExit();
      return out;
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  private static synchronized String postgresUrl() {
    if (postgres == null) {
      String given = System.getenv("EVERSTEP_TEST_PG");
      postgres = given == null ? start() : given;
    }
    return postgres;
  }

  /** PostgreSQL does not run as root. */
  private static String start() {
    try {
      Path bin =
          Path.of(
              run(List.of("sh", "-c", "ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1"))
                  .strip());
      Path data = directory();
      int port;
      try (ServerSocket probe = new ServerSocket(0)) {
        port = probe.getLocalPort();
      }
      List<String> user = new ArrayList<>();
      if (run(List.of("id", "-u")).strip().equals("0")) {
        run(List.of("chown", "postgres", data.toString()));
        user.addAll(List.of("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"));
      }
      String cluster = data.resolve("db").toString();
      run(
          with(
              user,
              bin.resolve("initdb").toString(),
              "-D",
              cluster,
              "-U",
              "everstep",
              "--auth=trust",
              "--no-sync"));
      String options =
          "-p "
              + port
              + " -c listen_addresses=127.0.0.1 -c unix_socket_directories="
              + data
              + " -c max_connections=200";
      run(
          with(
              user,
              bin.resolve("pg_ctl").toString(),
              "-D",
              cluster,
              "-w",
              "-l",
              data.resolve("log").toString(),
              "-o",
              options,
              "start"));
      Thread stop =
          new Thread(
              () -> {
                try {
                  run(
                      with(
                          user,
                          bin.resolve("pg_ctl").toString(),
                          "-D",
                          cluster,
                          "-m",
                          "immediate",
                          "stop"));
                  run(List.of("rm", "-rf", data.toString()));
                } catch (IOException | InterruptedException error) {
                  System.err.println("the test cluster was not stopped: " + error);
                }
              });
      Runtime.getRuntime().addShutdownHook(stop);
      return "postgresql://everstep@127.0.0.1:" + port + "/postgres";
    } catch (IOException | InterruptedException error) {
      throw new IllegalStateException("no PostgreSQL here: set EVERSTEP_TEST_PG", error);
    }
  }

  private static List<String> with(List<String> prefix, String... words) {
    List<String> out = new ArrayList<>(prefix);
    out.addAll(List.of(words));
    return out;
  }

  private static String run(List<String> command) throws IOException, InterruptedException {
    Path output = Files.createTempFile("everstep-run-", ".out");
    Process process =
        new ProcessBuilder(command)
            .redirectErrorStream(true)
            .redirectOutput(output.toFile())
            .start();
    int code = process.waitFor();
    String text = Files.readString(output);
    Files.delete(output);
    if (code != 0) {
      throw new IOException(command.get(0) + " ended with " + code + ": " + text);
    }
    return text;
  }
}
