package examples.demo;

import dev.everstep.Everstep;
import dev.everstep.StepRef;
import dev.everstep.Transaction;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.concurrent.CountDownLatch;

/**
 * The demo's workflow in Java: one run a file. Three steps: count it, add it to the running total,
 * tell the provider. Runs until it is told to stop.
 */
public final class DemoWorker {
  record Counted(String sha256, long lines, long tokens) {}

  record Added(String path, long lines, long tokens) {}

  /**
   * Runs it.
   *
   * @param arguments none; DEMO_DATABASE and DEMO_PROVIDER_PORT are read from the environment
   * @throws InterruptedException never, in fact: the process ends by a signal
   */
  public static void main(String[] arguments) throws InterruptedException {
    Everstep app =
        Everstep.open(o -> o.database(System.getenv("DEMO_DATABASE")).closeAtExit(false));
    String port = System.getenv("DEMO_PROVIDER_PORT");
    URI provider = URI.create("http://127.0.0.1:" + port + "/");
    HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    StepRef<String, Counted> count =
        app.step("count_file", String.class, Counted.class, DemoWorker::count);
    StepRef<Added, Void> add =
        app.transaction("add_to_total", Added.class, Void.class, DemoWorker::add);
    StepRef<String, String> tell =
        app.step(
            "tell_provider",
            String.class,
            String.class,
            (step, path) -> tell(http, provider, step.idempotencyKey(), path));
    app.queue("files", options -> {});
    app.workflow(
        "process",
        String.class,
        String.class,
        (ctx, path) -> {
          Counted counted = count.call(ctx, path);
          add.call(ctx, new Added(path, counted.lines(), counted.tokens()));
          return tell.call(ctx, path);
        });
    app.launch();
    // A SIGTERM drains, then leaves with 0 as any other end would.
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  app.close();
                  Runtime.getRuntime().halt(0);
                }));
    new CountDownLatch(1).await();
  }

  private static Counted count(String path) throws IOException, GeneralSecurityException {
    byte[] data = Files.readAllBytes(Path.of(path));
    byte[] hash = MessageDigest.getInstance("SHA-256").digest(data);
    long lines = 0;
    long tokens = 0;
    boolean inside = false;
    for (byte letter : data) {
      boolean word =
          (letter >= 'a' && letter <= 'z')
              || (letter >= 'A' && letter <= 'Z')
              || (letter >= '0' && letter <= '9')
              || letter == '_';
      tokens += word && !inside ? 1 : 0;
      lines += letter == '\n' ? 1 : 0;
      inside = word;
    }
    return new Counted(HexFormat.of().formatHex(hash), lines, tokens);
  }

  private static Void add(Transaction tx, Added added) {
    // It adds on purpose: done twice, the total is wrong.
    tx.execute(
        "update total set files = files + 1, lines = lines + $1, tokens = tokens + $2",
        added.lines(),
        added.tokens());
    tx.execute(
        "insert into seen values ($1, 1) on conflict (path) do update set times = times + 1",
        added.path());
    return null;
  }

  private static String tell(HttpClient http, URI provider, String key, String path)
      throws IOException, InterruptedException {
    HttpRequest request =
        HttpRequest.newBuilder(provider)
            .timeout(Duration.ofSeconds(30))
            .header("Idempotency-Key", key)
            .POST(BodyPublishers.ofString(path))
            .build();
    HttpResponse<String> answer = http.send(request, BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      throw new IOException("the provider answered " + answer.statusCode() + ": " + answer.body());
    }
    return answer.body();
  }

  private DemoWorker() {}
}
