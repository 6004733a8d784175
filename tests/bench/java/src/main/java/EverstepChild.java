import com.fasterxml.jackson.databind.JsonNode;
import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.StepRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;

/** Everstep's Java package under measurement, through its public surface only. */
final class EverstepChild {
  private static final String QUEUE = "bench";
  private static final int PARKED = 1000;
  private static final Set<String> MANY =
      Set.of("busy", "steps", "queue", "hold", "recover", "sleepers");

  private final String load;
  private final JsonNode options;
  private final double baseMb = Child.residentMb();
  private final Everstep app;
  private final List<Double> stepMs = Collections.synchronizedList(new ArrayList<>());
  private final List<Double> startMs = Collections.synchronizedList(new ArrayList<>());
  private final AtomicInteger counted = new AtomicInteger();
  private final CountDownLatch reached = new CountDownLatch(1);
  private final WorkflowRef<Integer, Integer> ten;
  private final WorkflowRef<Integer, Integer> sequential;
  private final WorkflowRef<Integer, Integer> nothing;
  private final WorkflowRef<Long, Integer> stamp;
  private final WorkflowRef<Integer, Integer> tenThenHold;
  private final WorkflowRef<Integer, Integer> sleeper;

  private EverstepChild(String load, JsonNode options) throws Exception {
    this.load = load;
    this.options = options;
    app =
        Everstep.open(
            o -> {
              o.database(options.get("url").asText()).autoMigrate(true);
              if (load.equals("enqueue") || load.equals("fill")) {
                o.client();
              }
              // More runs in flight than the default has slots for: the rest would be left to
              // processes that are to be idle.
              if (MANY.contains(load)) {
                o.slots(1000);
              }
            });
    if (!load.equals("enqueue")) {
      app.queue(QUEUE, o -> {});
    }
    if (load.equals("idle") || load.equals("busy")) {
      for (int number = 0; number < options.get("queues").asInt(); number++) {
        app.queue("bench-" + number, o -> {});
      }
    }
    int held = options.path("hold").asInt();
    StepRef<Integer, String> work =
        app.step("work", Integer.class, String.class, number -> Child.OUTPUT);
    ten =
        app.workflow(
            "ten",
            Integer.class,
            Integer.class,
            (ctx, number) -> {
              for (int step = 0; step < 10; step++) {
                work.call(ctx, step);
              }
              return number;
            });
    sequential =
        app.workflow(
            "sequential",
            Integer.class,
            Integer.class,
            (ctx, steps) -> {
              for (int step = 0; step < steps; step++) {
                long began = System.nanoTime();
                work.call(ctx, step);
                stepMs.add((System.nanoTime() - began) / 1e6);
              }
              return steps;
            });
    nothing = app.workflow("nothing", Integer.class, Integer.class, (ctx, number) -> number);
    stamp =
        app.workflow(
            "stamp",
            Long.class,
            Integer.class,
            (ctx, sent) -> {
              startMs.add((System.nanoTime() - sent) / 1e6);
              return 0;
            });
    tenThenHold =
        app.workflow(
            "ten_then_hold",
            Integer.class,
            Integer.class,
            (ctx, number) -> {
              for (int step = 0; step < 10; step++) {
                work.call(ctx, step);
              }
              if (held > 0) {
                countTo(held);
                new CountDownLatch(1).await();
              }
              return number;
            });
    sleeper =
        app.workflow(
            "sleeper",
            Integer.class,
            Integer.class,
            (ctx, number) -> {
              countTo(options.get("runs").asInt());
              ctx.sleep(Duration.ofHours(1));
              return number;
            });
  }

  private void countTo(int wanted) {
    if (counted.incrementAndGet() == wanted) {
      reached.countDown();
    }
  }

  /** So many complete ten-step runs at all times; how many there were. */
  private long inFlight(int count, long until) {
    AtomicLong ended = new AtomicLong();
    List<CompletableFuture<Void>> all = new ArrayList<>();
    for (int index = 0; index < count; index++) {
      all.add(oneAfterAnother(ended, until));
    }
    CompletableFuture.allOf(all.toArray(new CompletableFuture<?>[0])).join();
    return ended.get();
  }

  private CompletableFuture<Void> oneAfterAnother(AtomicLong ended, long until) {
    if (System.nanoTime() >= until) {
      return CompletableFuture.completedFuture(null);
    }
    return ten.startAsync((int) ended.get(), o -> {})
        .thenCompose(Run::resultAsync)
        .thenCompose(
            value -> {
              ended.incrementAndGet();
              return oneAfterAnother(ended, until);
            });
  }

  private static void ready() throws Exception {
    Child.say("ready", true);
    Child.waitForGo();
  }

  private Map<String, Object> steps() throws Exception {
    int count = options.get("in_flight").asInt();
    // The compiler of the virtual machine needs a few thousand rounds before the clock runs.
    inFlight(Math.max(1, count / 10), System.nanoTime() + 3_000_000_000L);
    ready();
    long began = System.nanoTime();
    double[] highest = {0};
    Thread look =
        new Thread(
            () -> {
              try {
                while (true) {
                  Thread.sleep(500);
                  highest[0] = Math.max(highest[0], Child.residentMb());
                }
              } catch (InterruptedException | java.io.IOException ended) {
                Thread.currentThread().interrupt();
              }
            });
    look.start();
    long runs = inFlight(count, began + (long) (options.get("seconds").asDouble() * 1e9));
    double seconds = Child.secondsSince(began);
    look.interrupt();
    look.join();
    return Map.of(
        "runs", runs,
        "seconds", seconds,
        "steps_per_s", runs * 10 / seconds,
        "rss_mb", highest[0] - baseMb);
  }

  private Map<String, Object> oneByOne() throws Exception {
    int steps = options.get("steps").asInt();
    sequential.start(Math.min(2000, steps)).result();
    stepMs.clear();
    ready();
    sequential.start(steps).result();
    return Map.of(
        "step_p50_ms", Child.percentile(stepMs, 0.5), "step_p99_ms", Child.percentile(stepMs, 0.99));
  }

  private Map<String, Object> queue() throws Exception {
    List<Integer> warm = IntStream.range(0, 2000).boxed().toList();
    for (Run<Integer> run : nothing.startMany(warm, null, o -> o.queue(QUEUE))) {
      run.result();
    }
    ready();
    long began = System.nanoTime();
    List<Integer> tasks = IntStream.range(0, options.get("tasks").asInt()).boxed().toList();
    List<CompletableFuture<Integer>> all = new ArrayList<>();
    for (Run<Integer> run : nothing.startMany(tasks, null, o -> o.queue(QUEUE))) {
      all.add(run.resultAsync());
    }
    CompletableFuture.allOf(all.toArray(new CompletableFuture<?>[0])).join();
    return Map.of("queue_tasks_per_s", tasks.size() / Child.secondsSince(began));
  }

  private Map<String, Object> starts() throws Exception {
    ready();
    return Map.of(
        "start_p50_ms", Child.percentile(startMs, 0.5),
        "start_p99_ms", Child.percentile(startMs, 0.99),
        "n", startMs.size());
  }

  private Map<String, Object> idle() throws Exception {
    ready();
    return Map.of();
  }

  /** Work without end, in 50 runs at a time. */
  private Map<String, Object> busy() throws Exception {
    AtomicLong ended = new AtomicLong();
    for (int index = 0; index < 50; index++) {
      oneAfterAnother(ended, Long.MAX_VALUE);
    }
    ready();
    return Map.of();
  }

  private Map<String, Object> hold() throws Exception {
    List<Integer> runs = IntStream.range(0, options.get("hold").asInt()).boxed().toList();
    tenThenHold.startMany(runs, null, o -> {});
    reached.await();
    ready();
    return Map.of();
  }

  private Map<String, Object> sleepers() throws Exception {
    for (Run<Integer> run : nothing.startMany(IntStream.range(0, 2000).boxed().toList(), null, o -> {})) {
      run.result();
    }
    double before = Child.residentMb();
    ready();
    int runs = options.get("runs").asInt();
    for (int first = 0; first < runs; first += 1000) {
      sleeper.startMany(IntStream.range(first, first + 1000).boxed().toList(), null, o -> {});
    }
    reached.await();
    while (((Number) app.info().get("executing")).intValue() > PARKED) {
      Thread.sleep(100);
    }
    return Map.of("rss_mb", Child.residentMb() - before);
  }

  /** The other process: a client. */
  private Map<String, Object> enqueue() throws Exception {
    ready();
    for (int number = 0; number < options.get("tasks").asInt(); number++) {
      // Spread over the poll interval of whoever polls.
      pause(options.get("pause_s").asDouble() * (0.5 + (number * 0.618) % 1));
      stamp.start(System.nanoTime(), o -> o.queue(QUEUE));
    }
    pause(options.get("settle_s").asDouble());
    return Map.of();
  }

  private static void pause(double seconds) throws InterruptedException {
    Thread.sleep((long) (seconds * 1000));
  }

  /** A backlog nobody works on: of a queue, of a workflow no worker knows, or of work for later. */
  private Map<String, Object> fill() throws Exception {
    String variant = options.get("variant").asText();
    int runs = options.get("runs").asInt();
    if (variant.equals("queue")) {
      app.putQueue("other", o -> {});
    }
    WorkflowRef<Integer, Integer> unserved = app.reference("unserved", Integer.class, Integer.class);
    ready();
    for (int first = 0; first < runs; first += 5000) {
      List<Integer> part = IntStream.range(first, Math.min(first + 5000, runs)).boxed().toList();
      if (variant.equals("delayed")) {
        List<Long> sent = part.stream().map(Integer::longValue).toList();
        stamp.startMany(sent, null, o -> o.queue(QUEUE).delay(Duration.ofDays(1)));
      } else {
        unserved.startMany(part, null, o -> o.queue(variant.equals("queue") ? "other" : QUEUE));
      }
    }
    return Map.of();
  }

  private Map<String, Object> run() throws Exception {
    if (load.equals("recover")) {
      ready();
      Child.say("launched", System.currentTimeMillis() / 1000.0);
      app.launch();
      Child.waitForGo();
      return Map.of();
    }
    app.launch();
    return switch (load) {
      case "steps" -> steps();
      case "sequential" -> oneByOne();
      case "queue" -> queue();
      case "starts" -> starts();
      case "idle" -> idle();
      case "busy" -> busy();
      case "hold" -> hold();
      case "sleepers" -> sleepers();
      case "enqueue" -> enqueue();
      case "fill" -> fill();
      default -> throw new IllegalArgumentException(load);
    };
  }

  public static void main(String[] arguments) throws Exception {
    EverstepChild child = new EverstepChild(arguments[0], Child.options(arguments[1]));
    Child.say("result", child.run());
    while (Child.waitForGo()) {}
    child.app.close();
  }
}
