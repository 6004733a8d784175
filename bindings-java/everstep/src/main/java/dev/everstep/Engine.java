package dev.everstep;

import com.fasterxml.jackson.core.JsonProcessingException;
import java.lang.ref.WeakReference;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** One engine as Java sees it: its handle, its client, its functions, its life. */
final class Engine {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");
  private static final long CLOSE_MILLIS = 1000;

  /** "As long as it takes", {@code ChronoUnit.FOREVER}, is a grace, too. */
  private static final Duration LONGEST_GRACE = Duration.ofDays(365);

  final Payloads payloads;
  final DeclaredErrors declaredErrors;
  final Threads threads;
  final Map<Long, Execution> executions = new ConcurrentHashMap<>();

  private final EngineOptions options;
  private final Map<String, Registered> functions = new ConcurrentHashMap<>();
  private final List<List<@Nullable Object>> queues = new ArrayList<>();
  private final CountDownLatch over = new CountDownLatch(1);
  private volatile @Nullable Client client;
  private volatile boolean launched;
  private boolean closing;
  private volatile boolean closed;
  private @Nullable Thread exitHook;
  private volatile Duration exitGrace;
  private final AtomicBoolean warnedUnlaunched = new AtomicBoolean();

  Engine(EngineOptions options) {
    this.options = options;
    this.exitGrace = options.exitGrace;
    this.payloads = new Payloads(options.jackson);
    this.declaredErrors = new DeclaredErrors(payloads);
    this.threads = new Threads(options.virtualThreads);
    if (!threads.areVirtual()) {
      // A wait holds a platform thread here: fewer of them are kept, and given back sooner.
      options.config.putIfAbsent("max_parked", 100);
      options.config.putIfAbsent("release_after_ms", 1000);
    }
  }

  // -- functions

  synchronized void register(Registered function) {
    requireOpen();
    function.where = Location.here();
    Registered known = functions.get(function.name);
    if (known != null) {
      throw new EverstepException(
          ErrorCode.ALREADY_REGISTERED,
          "the name "
              + function.name
              + " is taken by the "
              + known.kind
              + " declared at "
              + known.where
              + "; this one is declared at "
              + function.where
              + ": give it another");
    }
    if (launched) {
      throw new EverstepException(
          ErrorCode.REGISTERED_LATE,
          function.name + " (" + function.where + ") was declared after launch; declare it before");
    }
    functions.put(function.name, function);
    if (client != null) {
      boolean announced = false;
      try {
        announce(client, function);
        announced = true;
      } finally {
        if (!announced) {
          // Refused: the name is free for the declaration that puts it right.
          functions.remove(function.name);
        }
      }
    }
  }

  synchronized void declareError(String code, Class<? extends Throwable> type) {
    requireOpen();
    declaredErrors.add(code, type, Location.here());
  }

  private void requireOpen() {
    if (closed || closing) {
      throw new EverstepException(ErrorCode.CLOSED, "this engine is closed; make a new one");
    }
  }

  synchronized void declareQueue(List<@Nullable Object> queue) {
    requireOpen();
    if (launched) {
      throw new EverstepException(
          ErrorCode.REGISTERED_LATE,
          "queue "
              + queue.get(0)
              + " was declared after launch; putQueue changes queues at run time");
    }
    queues.add(queue);
  }

  /** What is declared here under this name, or null. */
  @Nullable Registered registered(String name) {
    return functions.get(name);
  }

  Registered known(String name, java.lang.reflect.Type output) {
    Registered found = functions.get(name);
    return found == null ? Registered.foreign(name, output) : found;
  }

  static Registered.Body bodyOf(Registered function) {
    Registered.Body body = function.body;
    if (body == null) {
      throw new EverstepException(
          ErrorCode.UNKNOWN_WORKFLOW, function.name + " is known here by its name only");
    }
    return body;
  }

  private void announce(Client client, Registered function) {
    if (!function.startable) {
      return;
    }
    Map<String, @Nullable Object> registration = function.registration();
    if (!threads.areVirtual() && !options.config.containsKey("slots")) {
      registration.put("slots", 8 * Runtime.getRuntime().availableProcessors());
    }
    client.call(
        Ops.REGISTER,
        client.id,
        function.kind,
        function.name,
        function.version(),
        json(registration));
  }

  private static String json(Map<String, ? extends @Nullable Object> values) {
    try {
      return Payloads.PLAIN.writeValueAsString(values);
    } catch (JsonProcessingException error) {
      throw Options.invalid(
          "a setting is no text, number, boolean or list: " + error.getOriginalMessage());
    }
  }

  /**
   * {@code from} is where it came from: the engine may have another by now, after a launch that
   * failed.
   */
  void runReady(Client from, long id, Frame.Values frame) {
    Registered function = functions.get(frame.text(1));
    if (function == null) {
      from.call(Ops.ABANDON, id, ErrorCode.UNKNOWN_WORKFLOW.text());
      return;
    }
    Execution execution = new Execution(this, from, id, frame);
    executions.put(id, execution);
    try {
      threads.execute(new Runner(execution, function, frame.bytes(6)));
    } catch (Throwable error) {
      // No thread to be had: another worker, or this one later.
      executions.remove(id);
      from.call(Ops.ABANDON, id, "no_thread");
      LOG.error("no thread for run {}", execution.run, error);
    }
  }

  /**
   * A driver of the user's must not open the engine's SQLite file: closing it would drop the
   * engine's locks.
   */
  void requirePostgres(String name) {
    if ("sqlite".equals(info().get("store"))) {
      throw new EverstepException(
          ErrorCode.OTHER_DATABASE,
          "transaction "
              + name
              + ": this engine is on SQLite, where only its own connection takes part: leave the"
              + " data source out");
    }
  }

  // -- the handle

  /** Opened on first use: making an engine opens nothing and loads nothing. */
  Client client() {
    Client known = client;
    return known == null ? open() : known;
  }

  private synchronized Client open() {
    Client known = client;
    if (known == null) {
      if (closed) {
        throw new EverstepException(ErrorCode.CLOSED, "this engine is closed; make a new one");
      }
      NativeLoader.load();
      byte[] config = json(options.config).getBytes(StandardCharsets.UTF_8);
      long handle = Client.read(Native.open(config, config.length)).number(0);
      try {
        Client made = new Client(this, handle);
        for (Registered function : functions.values()) {
          announce(made, function);
        }
        client = made;
        return made;
      } finally {
        if (client == null) {
          // Nobody else knows this handle: the next attempt opens one of its own.
          Native.close(handle, CLOSE_MILLIS);
        }
      }
    }
    return known;
  }

  Run<@Nullable Object> handleOf(String id) {
    Options.required(id, "the run's id");
    String key = client().call(Ops.RUN_KEY, id).text(0);
    return new Run<>(this, key, id, false, Registered.foreign("", Object.class));
  }

  // -- life

  void launch() {
    Client first;
    synchronized (this) {
      first = client();
      if (closed) {
        throw new EverstepException(ErrorCode.CLOSED, "this engine is closed; make a new one");
      }
      if (launched) {
        throw new EverstepException(ErrorCode.ALREADY_LAUNCHED, "launch was called twice");
      }
      launched = true;
    }
    try {
      first.startPolling();
      for (List<@Nullable Object> queue : queues) {
        first.request(Ops.PUT_QUEUE, queue, false);
      }
      if (isOf("client")) {
        said(first.request(Ops.CONNECT));
      } else {
        said(first.request(Ops.LAUNCH));
      }
    } catch (RuntimeException | Error error) {
      giveUpLaunch(first);
      throw error;
    }
    if (options.closesAtExit) {
      closeAtExit();
    }
  }

  private boolean isOf(String role) {
    return role.equals(options.config.getOrDefault("role", "worker"));
  }

  /** Said before a wait that nothing here will end; another worker may. */
  void warnUnlaunched() {
    if (!launched && isOf("worker") && warnedUnlaunched.compareAndSet(false, true)) {
      LOG.warn(
          "waiting for a run on an engine that is not launched: unless another worker runs it, call"
              + " launch()");
    }
  }

  /** Launches, waits for a signal, for {@code close} or for an interrupt, and has drained then. */
  void serve(Duration grace) {
    graceMillis(grace);
    exitGrace = grace;
    boolean wasClosed = isClosing();
    try {
      launch();
    } catch (EverstepException error) {
      if (error.code() == ErrorCode.CLOSED && !wasClosed) {
        // Elsewhere, while it was launched.
        awaitClose();
        return;
      }
      if (error.code() != ErrorCode.ALREADY_LAUNCHED) {
        throw error;
      }
    } catch (WaitInterrupted interrupt) {
      close(grace);
      Thread.currentThread().interrupt();
      return;
    }
    closeAtExit();
    try {
      over.await();
    } catch (InterruptedException interrupt) {
      close(grace);
      Thread.currentThread().interrupt();
    }
  }

  private static long graceMillis(Duration grace) {
    return Times.milliseconds(grace.compareTo(LONGEST_GRACE) > 0 ? LONGEST_GRACE : grace);
  }

  private static void said(Frame.Values answer) {
    if (answer.optionalText(0) != null) {
      LOG.info("{}", answer.text(0));
    }
    if (answer.optionalText(1) != null) {
      LOG.warn("{}", answer.text(1));
    }
  }

  /** A launch that failed may be tried again: the database was down, the password wrong. */
  private synchronized void giveUpLaunch(Client failed) {
    launched = false;
    client = null;
    failed.close();
    Native.close(failed.handle, CLOSE_MILLIS);
  }

  boolean isClosed() {
    return closed;
  }

  synchronized boolean isLaunched() {
    return launched && !closing;
  }

  private synchronized boolean isClosing() {
    return closed || closing;
  }

  /** Whether it may claim something: a worker without functions has nothing to claim. */
  boolean claimsRuns() {
    return isLaunched()
        && isOf("worker")
        && functions.values().stream().anyMatch(function -> function.startable);
  }

  void awaitClosed() throws InterruptedException {
    over.await();
  }

  /** Claims no more, lets runs finish or park, hands the rest over, ends every thread. */
  void close(Duration grace) {
    long millis = graceMillis(grace);
    WorkflowContext.refuseClose(this, "close");
    Client last;
    boolean drain;
    synchronized (this) {
      if (closed) {
        return;
      }
      if (client == null) {
        closed = true;
        over.countDown();
        return;
      }
      last = client;
      drain = launched && !closing;
      if (closing) {
        last = null;
      }
      closing = true;
    }
    if (last == null) {
      awaitClose();
      return;
    }
    try {
      if (drain && millis > 0) {
        drain(last, millis);
      }
    } finally {
      end(last);
    }
  }

  private void drain(Client client, long millis) {
    try {
      client.request(false, Ops.DRAIN, millis);
    } catch (EverstepException error) {
      LOG.warn("drain: {}", error.getMessage());
    }
  }

  /** Another thread is closing it. */
  private void awaitClose() {
    try {
      over.await();
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  private void end(Client client) {
    closed = true;
    for (Execution execution : executions.values()) {
      execution.stop("closed");
    }
    client.close();
    Native.close(client.handle, CLOSE_MILLIS);
    client.failAll();
    threads.end();
    synchronized (this) {
      if (exitHook != null) {
        try {
          Runtime.getRuntime().removeShutdownHook(exitHook);
        } catch (IllegalStateException exiting) {
          LOG.debug("closed while the virtual machine exits");
        }
        exitHook = null;
      }
    }
    over.countDown();
  }

  /** Work in flight at an exit goes on in another process, or the next one. */
  private synchronized void closeAtExit() {
    if (exitHook != null) {
      return;
    }
    WeakReference<Engine> engine = new WeakReference<>(this);
    Thread hook =
        new Thread(
            () -> {
              Engine open = engine.get();
              if (open != null) {
                open.close(open.exitGrace);
              }
            },
            "everstep-exit");
    try {
      Runtime.getRuntime().addShutdownHook(hook);
      exitHook = hook;
    } catch (IllegalStateException exiting) {
      LOG.debug("launched while the virtual machine exits");
    }
  }

  Map<String, Object> info() {
    try {
      @SuppressWarnings("unchecked")
      Map<String, Object> out =
          Payloads.PLAIN.readValue(client().call(Ops.INFO).text(0), LinkedHashMap.class);
      return out;
    } catch (JsonProcessingException error) {
      throw new EverstepException(ErrorCode.INTERNAL, error.getOriginalMessage());
    }
  }
}
