import com.fasterxml.jackson.databind.JsonNode;
import dev.dbos.transact.DBOS;
import dev.dbos.transact.DBOSClient;
import dev.dbos.transact.StartWorkflowOptions;
import dev.dbos.transact.config.DBOSConfig;
import dev.dbos.transact.workflow.Queue;
import dev.dbos.transact.workflow.Workflow;
import dev.dbos.transact.workflow.WorkflowHandle;
import java.net.URI;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/** DBOS Transact for Java under measurement, used as its documentation recommends: proxies, registered queues, default settings. */
final class DbosChild {
  private static final Queue QUEUE = new Queue("bench");

  /** The workflows. */
  public interface Bench {
    int ten(int number);

    int sequential(int steps);

    int nothing(int number);

    int stamp(long sent);

    int tenThenHold(int number) throws InterruptedException;
  }

  static final class BenchImpl implements Bench {
    private final DBOS dbos;
    private final int held;
    final List<Double> stepMs = Collections.synchronizedList(new ArrayList<>());
    final List<Double> startMs = Collections.synchronizedList(new ArrayList<>());
    private final AtomicInteger recorded = new AtomicInteger();
    final CountDownLatch allRecorded = new CountDownLatch(1);

    BenchImpl(DBOS dbos, int held) {
      this.dbos = dbos;
      this.held = held;
    }

    private void work() {
      String output = dbos.runStep(() -> Child.OUTPUT, "work");
      assert output != null;
    }

    @Override
    @Workflow(name = "ten")
    public int ten(int number) {
      for (int step = 0; step < 10; step++) {
        work();
      }
      return number;
    }

    @Override
    @Workflow(name = "sequential")
    public int sequential(int steps) {
      for (int step = 0; step < steps; step++) {
        long began = System.nanoTime();
        work();
        stepMs.add((System.nanoTime() - began) / 1e6);
      }
      return steps;
    }

    @Override
    @Workflow(name = "nothing")
    public int nothing(int number) {
      return number;
    }

    @Override
    @Workflow(name = "stamp")
    public int stamp(long sent) {
      startMs.add((System.nanoTime() - sent) / 1e6);
      return 0;
    }

    @Override
    @Workflow(name = "ten_then_hold")
    public int tenThenHold(int number) throws InterruptedException {
      for (int step = 0; step < 10; step++) {
        work();
      }
      if (held > 0) {
        if (recorded.incrementAndGet() == held) {
          allRecorded.countDown();
        }
        new CountDownLatch(1).await();
      }
      return number;
    }
  }

  private final String load;
  private final JsonNode options;
  private final double baseMb = Child.residentMb();
  private final String url;
  private final String user;
  private final String password;
  private DBOS dbos;
  private BenchImpl bench;
  private Bench proxy;

  private DbosChild(String load, JsonNode options) throws Exception {
    this.load = load;
    this.options = options;
    URI given = URI.create(options.get("url").asText());
    String[] who = (given.getUserInfo() == null ? "postgres" : given.getUserInfo()).split(":", 2);
    url = "jdbc:postgresql://" + given.getHost() + ":" + given.getPort() + given.getPath();
    user = who[0];
    password = who.length > 1 ? who[1] : "";
  }

  private void launch() {
    dbos =
        new DBOS(
            DBOSConfig.defaults("bench")
                .withDatabaseUrl(url)
                .withDbUser(user)
                .withDbPassword(password)
                .withAppVersion("bench"));
    bench = new BenchImpl(dbos, options.path("hold").asInt());
    proxy = dbos.registerProxy(Bench.class, bench);
    dbos.registerQueue(QUEUE);
    if (load.equals("idle")) {
      for (int number = 0; number < options.get("queues").asInt(); number++) {
        dbos.registerQueue(new Queue("bench-" + number));
      }
    }
    dbos.launch();
  }

  private static void ready() throws Exception {
    Child.say("ready", true);
    Child.waitForGo();
  }

  private List<WorkflowHandle<Integer, RuntimeException>> start(
      int count, boolean queued) throws Exception {
    // Starting blocks for its insert; a pool as wide as DBOS's own keeps its connections busy.
    ExecutorService pool = Executors.newFixedThreadPool(32);
    try {
      List<Future<WorkflowHandle<Integer, RuntimeException>>> begun = new ArrayList<>();
      for (int index = 0; index < count; index++) {
        int number = index;
        begun.add(
            pool.submit(
                () ->
                    queued
                        ? dbos.startWorkflow(
                            () -> proxy.nothing(number), new StartWorkflowOptions(QUEUE))
                        : dbos.startWorkflow(() -> proxy.ten(number))));
      }
      List<WorkflowHandle<Integer, RuntimeException>> out = new ArrayList<>();
      for (Future<WorkflowHandle<Integer, RuntimeException>> one : begun) {
        out.add(one.get());
      }
      return out;
    } finally {
      pool.shutdown();
    }
  }

  private Map<String, Object> steps() throws Exception {
    int runs = options.get("runs").asInt();
    for (WorkflowHandle<Integer, RuntimeException> handle : start(Math.max(1, runs / 10), false)) {
      handle.getResult();
    }
    ready();
    long began = System.nanoTime();
    List<WorkflowHandle<Integer, RuntimeException>> handles = start(runs, false);
    double inFlight = Child.residentMb();
    for (WorkflowHandle<Integer, RuntimeException> handle : handles) {
      handle.getResult();
    }
    double seconds = Child.secondsSince(began);
    return Map.of(
        "runs", runs,
        "seconds", seconds,
        "steps_per_s", runs * 10 / seconds,
        "rss_mb", inFlight - baseMb);
  }

  private Map<String, Object> oneByOne() throws Exception {
    int steps = options.get("steps").asInt();
    dbos.startWorkflow(() -> proxy.sequential(Math.min(200, steps))).getResult();
    bench.stepMs.clear();
    ready();
    dbos.startWorkflow(() -> proxy.sequential(steps)).getResult();
    return Map.of(
        "step_p50_ms", Child.percentile(bench.stepMs, 0.5),
        "step_p99_ms", Child.percentile(bench.stepMs, 0.99));
  }

  private Map<String, Object> queue() throws Exception {
    for (WorkflowHandle<Integer, RuntimeException> handle : start(10, true)) {
      handle.getResult();
    }
    ready();
    long began = System.nanoTime();
    int tasks = options.get("tasks").asInt();
    for (WorkflowHandle<Integer, RuntimeException> handle : start(tasks, true)) {
      handle.getResult();
    }
    return Map.of("queue_tasks_per_s", tasks / Child.secondsSince(began));
  }

  private Map<String, Object> starts() throws Exception {
    ready();
    return Map.of(
        "start_p50_ms", Child.percentile(bench.startMs, 0.5),
        "start_p99_ms", Child.percentile(bench.startMs, 0.99),
        "n", bench.startMs.size());
  }

  private Map<String, Object> hold() throws Exception {
    for (int number = 0; number < options.get("hold").asInt(); number++) {
      int index = number;
      dbos.startWorkflow(() -> proxy.tenThenHold(index));
    }
    bench.allRecorded.await();
    ready();
    return Map.of();
  }

  /** The other process: a client without workflows. */
  private Map<String, Object> enqueue() throws Exception {
    try (DBOSClient client = new DBOSClient(url, user, password)) {
      DBOSClient.EnqueueOptions target =
          new DBOSClient.EnqueueOptions("stamp", BenchImpl.class.getName(), "bench")
              .withAppVersion("bench");
      ready();
      for (int number = 0; number < options.get("tasks").asInt(); number++) {
        // Spread over the poll interval of whoever polls.
        pause(options.get("pause_s").asDouble() * (0.5 + (number * 0.618) % 1));
        client.enqueueWorkflow(target, new Object[] {System.nanoTime()});
      }
      pause(options.get("settle_s").asDouble());
    }
    return Map.of();
  }

  private static void pause(double seconds) throws InterruptedException {
    Thread.sleep((long) (seconds * 1000));
  }

  private Map<String, Object> run() throws Exception {
    if (load.equals("enqueue")) {
      return enqueue();
    }
    if (load.equals("recover")) {
      ready();
      Child.say("launched", System.currentTimeMillis() / 1000.0);
      launch();
      Child.waitForGo();
      return Map.of();
    }
    launch();
    return switch (load) {
      case "steps" -> steps();
      case "sequential" -> oneByOne();
      case "queue" -> queue();
      case "starts" -> starts();
      case "hold" -> hold();
      case "idle" -> {
        ready();
        yield Map.of();
      }
      default -> throw new IllegalArgumentException(load);
    };
  }

  public static void main(String[] arguments) throws Exception {
    DbosChild child = new DbosChild(arguments[0], Child.options(arguments[1]));
    Child.say("result", child.run());
    while (Child.waitForGo()) {}
    if (child.dbos != null) {
      child.dbos.shutdown();
    }
    System.exit(0);
  }
}
