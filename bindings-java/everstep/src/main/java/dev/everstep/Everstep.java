package dev.everstep;

import java.lang.reflect.Type;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * A durable-workflow engine inside this process. Making one connects nothing and starts no thread;
 * {@link #launch()} does.
 */
public final class Everstep extends Declarations implements AutoCloseable {
  /** Within the 30 s most orchestrators give. */
  private static final Duration GRACE = Duration.ofSeconds(25);

  private Everstep(EngineOptions options) {
    super(new Engine(options));
  }

  /**
   * An engine configured by the environment: {@code EVERSTEP_DATABASE_URL}, else {@code
   * everstep.db} in the working directory.
   *
   * @return the engine, not yet launched
   */
  public static Everstep open() {
    return open(options -> {});
  }

  /**
   * An engine on a database.
   *
   * @param database {@code postgresql://user:password@host/name} or {@code sqlite:FILE}
   * @return the engine, not yet launched
   */
  public static Everstep open(String database) {
    return open(options -> options.database(database));
  }

  /**
   * An engine with options.
   *
   * @param configurer says what differs from the defaults
   * @return the engine, not yet launched
   */
  public static Everstep open(Consumer<EngineOptions> configurer) {
    EngineOptions options = new EngineOptions();
    Options.required(configurer, "options").accept(options);
    return new Everstep(options);
  }

  // -- life

  /** Connects, claims, runs. A client only connects. */
  public void launch() {
    engine.launch();
  }

  /**
   * The whole life of a worker: launches, works until the process is told to end (SIGTERM, Ctrl-C)
   * or {@link #close()} is called elsewhere, and returns when it has let runs finish or park for 25
   * s and handed the rest over.
   */
  public void serve() {
    serve(GRACE);
  }

  /**
   * The whole life of a worker, as {@link #serve()} has it. An engine that is launched already is
   * not launched again; an interrupt of the thread, during the launch too, ends it like a signal,
   * and is kept.
   *
   * <p>The virtual machine waits for the drain after a signal, also where {@link
   * EngineOptions#closeAtExit} is off, and then ends: what stands behind this call may not run.
   *
   * @param grace how long runs may take; an orchestrator has to allow for more than that
   */
  public void serve(Duration grace) {
    WorkflowContext.refuseClose(engine, "serve");
    engine.serve(Options.required(grace, "grace"));
  }

  /** Claims no more, lets runs finish or park for 25 s, hands the rest over. */
  @Override
  public void close() {
    close(GRACE);
  }

  /**
   * Claims no more, lets runs finish or park, hands the rest over.
   *
   * @param grace how long; zero: at once; {@code ChronoUnit.FOREVER.getDuration()}: as long as it
   *     takes
   * @throws EverstepException {@code config_invalid} inside a run of this engine: it would wait for
   *     that run
   */
  public void close(Duration grace) {
    engine.close(Options.required(grace, "grace"));
  }

  /**
   * Whether it is launched and not closing.
   *
   * @return true while it works
   */
  public boolean isRunning() {
    return engine.isLaunched();
  }

  /**
   * Whether it works for others: it is running, as a worker, and has a workflow or step of its own.
   *
   * @return true while runs that others start may be claimed here
   */
  public boolean claimsRuns() {
    return engine.claimsRuns();
  }

  /**
   * Waits until it is closed, whoever closes it. The engine's own threads are daemons: a thread in
   * here keeps the virtual machine for them. {@link #serve()} is this with a launch before it.
   *
   * @throws InterruptedException when the thread is interrupted; the engine goes on
   */
  public void awaitClosed() throws InterruptedException {
    WorkflowContext.refuseClose(engine, "awaitClosed");
    engine.awaitClosed();
  }

  /**
   * Brings the schema to this library's version.
   *
   * @return the version
   */
  public long migrate() {
    return engine.client().request(Ops.MIGRATE).number(0);
  }

  /**
   * The migrations as text, to run by hand where this role may not change the schema.
   *
   * @param store {@code postgres} or {@code sqlite}
   * @param schema the PostgreSQL schema, or null
   * @return the statements
   */
  public String migrationSql(String store, @Nullable String schema) {
    Options.required(store, "the store");
    return engine.client().call(Ops.MIGRATION_SQL, store, schema).text(0);
  }

  /** Stamps this environment and this database: a copied database may run from now on. */
  public void adopt() {
    engine.client().request(Ops.ADOPT);
  }

  /**
   * Counters and settings of this engine: {@code phase} (opened, connected, launched, draining,
   * closed), {@code store} (postgres, sqlite), {@code namespace}, {@code schema}, {@code
   * environment}, {@code version} (the build), {@code incarnation} (this worker, or null), {@code
   * held} (why it claims nothing, or null), {@code executing} (runs now), {@code slots}, {@code
   * lease_ms}, {@code beat_ms}, {@code max_parked}, {@code release_after_ms}, {@code max_payload},
   * {@code cancel_grace_ms}, {@code max_crashes}, {@code outage_budget_ms}, and {@code counters},
   * numbers by name.
   *
   * @return them by name
   */
  public Map<String, Object> info() {
    return engine.info();
  }

  // -- declarations beyond steps and workflows

  /**
   * Declares an error type: it is recorded by its fields and rebuilt as this class, on the first
   * run and on replay, and in every language that declares the same code.
   *
   * @param code the name it is recorded under
   * @param type a class whose constructor takes its fields, or its message
   */
  public void error(String code, Class<? extends Throwable> type) {
    Options.requiredName(code, "the error's code");
    engine.declareError(code, Options.required(type, "the error's type"));
  }

  /**
   * Declares a queue, made at launch. What an operator changed since is left alone.
   *
   * @param name its name
   * @param options its limits
   * @return its name
   */
  public String queue(String name, Consumer<QueueOptions> options) {
    engine.declareQueue(QueueOptions.record(name, options));
    return name;
  }

  /**
   * A workflow known by its name: of another process, another program, another language.
   *
   * @param name its name
   * @param input type of its input
   * @param output type of its output
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> reference(
      String name, Class<I> input, Class<O> output) {
    return new WorkflowRef<>(
        engine, Registered.foreign(required(name), Types.of(input), Types.of(output)));
  }

  /**
   * A workflow known by its name: of another process, another program, another language.
   *
   * @param name its name
   * @param input type of its input
   * @param output type of its output
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> reference(
      String name, TypeRef<I> input, TypeRef<O> output) {
    Options.required(input, "the input's type");
    return new WorkflowRef<>(
        engine, Registered.foreign(required(name), input.type(), Types.of(output)));
  }

  private static String required(String name) {
    return Options.required(name, "the workflow's name");
  }

  // -- runs

  /**
   * The handle of a run by its id. Looks nothing up; its output is read as plain values.
   *
   * @param id the id
   * @return the handle
   */
  public Run<@Nullable Object> run(String id) {
    return engine.handleOf(id);
  }

  /**
   * The handle of a run by its id. Looks nothing up.
   *
   * @param id the id
   * @param output type of its output
   * @param <T> type of its output
   * @return the handle
   */
  public <T extends @Nullable Object> Run<T> run(String id, Class<T> output) {
    return handle(engine.handleOf(id).key(), id, Types.of(output));
  }

  /**
   * The handle of a run by its id. Looks nothing up.
   *
   * @param id the id
   * @param output type of its output
   * @param <T> type of its output
   * @return the handle
   */
  public <T extends @Nullable Object> Run<T> run(String id, TypeRef<T> output) {
    return handle(engine.handleOf(id).key(), id, Types.of(output));
  }

  /**
   * The handle of a run by its key. Looks nothing up.
   *
   * @param key the run's key, a uuid
   * @param output type of its output
   * @param <T> type of its output
   * @return the handle
   */
  public <T extends @Nullable Object> Run<T> runOfKey(String key, Class<T> output) {
    return handle(Options.required(key, "the run's key"), null, Types.of(output));
  }

  /**
   * The handle of a run by its key, of a generic type. Looks nothing up.
   *
   * @param key the run's key, a uuid
   * @param output type of its output
   * @param <T> type of its output
   * @return the handle
   */
  public <T extends @Nullable Object> Run<T> runOfKey(String key, TypeRef<T> output) {
    return handle(Options.required(key, "the run's key"), null, Types.of(output));
  }

  private <T extends @Nullable Object> Run<T> handle(String key, @Nullable String id, Type output) {
    return new Run<>(engine, key, id, false, Registered.foreign("", output));
  }

  /**
   * Runs, newest first, one page.
   *
   * @param filter which ones
   * @return the page
   */
  public Page<RunInfo> runs(Consumer<RunFilter> filter) {
    RunFilter out = new RunFilter();
    Options.required(filter, "the filter").accept(out);
    Frame.Values answer = engine.client().request(Ops.LIST_RUNS, out.record());
    List<RunInfo> found = new ArrayList<>();
    int count = answer.list(0).size();
    for (int index = 0; index < count; index++) {
      found.add(RunInfo.of(answer.record(0).record(index)));
    }
    return new Page<>(found, answer.optionalText(1));
  }

  // -- queues

  /**
   * Makes or changes a queue now, as an operator: effective in the whole fleet within two seconds.
   *
   * @param name its name
   * @param options its limits
   * @return the queue
   */
  public QueueInfo putQueue(String name, Consumer<QueueOptions> options) {
    List<@Nullable Object> record = QueueOptions.record(name, options);
    return QueueInfo.of(engine.client().request(Ops.PUT_QUEUE, record, true).record(0));
  }

  /**
   * All queues.
   *
   * @return the queues
   */
  public List<QueueInfo> queues() {
    Frame.Values answer = engine.client().request(Ops.LIST_QUEUES);
    List<QueueInfo> out = new ArrayList<>();
    int count = answer.list(0).size();
    for (int index = 0; index < count; index++) {
      out.add(QueueInfo.of(answer.record(0).record(index)));
    }
    return out;
  }

  /**
   * Nothing more is claimed from a queue; what runs goes on.
   *
   * @param name its name
   * @throws EverstepException {@code unknown_queue} names the nearest queue
   */
  public void pauseQueue(String name) {
    pause(name, true);
  }

  /**
   * A paused queue is claimed from again.
   *
   * @param name its name
   * @throws EverstepException {@code unknown_queue} names the nearest queue
   */
  public void resumeQueue(String name) {
    pause(name, false);
  }

  /** One operation: read and written back, it would undo a change of the limits in between. */
  private void pause(String name, boolean paused) {
    engine.client().request(Ops.PAUSE_QUEUE, Options.required(name, "the queue's name"), paused);
  }
}
