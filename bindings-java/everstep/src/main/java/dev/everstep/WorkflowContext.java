package dev.everstep;

import java.lang.reflect.Type;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;

/**
 * Where a workflow's durable calls are made. Belongs to one thread and one branch, and ends with
 * its function: used elsewhere or later it is an error ({@code foreign_thread}, {@code
 * outside_run}).
 */
public final class WorkflowContext extends RunFacts {
  /** Only to refuse what would not be recorded: a start or a wait without its context. */
  private static final ThreadLocal<@Nullable WorkflowContext> OPEN = new ThreadLocal<>();

  final String branch;
  final int flags;
  private final Thread thread = Thread.currentThread();
  private @Nullable RunningStep step;
  private volatile boolean closed;
  private @Nullable Logger logger;

  WorkflowContext(Execution execution, String branch, int flags) {
    super(execution);
    this.branch = branch;
    this.flags = flags;
  }

  void open() {
    OPEN.set(this);
  }

  void close() {
    closed = true;
    OPEN.remove();
  }

  void enter(RunningStep running) {
    step = running;
  }

  void leave() {
    step = null;
  }

  @Nullable RunningStep step() {
    return step;
  }

  /** {@code what} would block or start something unrecorded in a workflow of this engine. */
  static void refuseInside(Engine engine, String what, String instead) {
    WorkflowContext open = OPEN.get();
    if (open != null && open.step == null && open.execution.engine == engine) {
      throw new EverstepException(
          ErrorCode.OUTSIDE_RUN,
          what + " inside a workflow is not recorded: pass the context, " + instead);
    }
  }

  /** From a run or a step of the engine's own: it would wait for what calls it. */
  static void refuseClose(Engine engine, String verb) {
    WorkflowContext open = OPEN.get();
    if (open != null && open.execution.engine == engine) {
      throw Options.invalid(
          verb + "() inside a run would wait for that run; " + verb + " from outside");
    }
  }

  void check(String what) {
    if (Thread.currentThread() != thread) {
      throw new EverstepException(
          ErrorCode.FOREIGN_THREAD,
          what
              + " from a thread this context does not belong to; use all, any, race or map, and the"
              + " context they pass to each branch");
    }
    if (closed) {
      throw new EverstepException(
          ErrorCode.OUTSIDE_RUN, what + " after the function of its context has ended");
    }
    if (step != null) {
      throw new EverstepException(
          ErrorCode.OUTSIDE_RUN,
          what + " belongs inside a workflow, not inside its step " + step.name());
    }
  }

  /**
   * For workflow code: lines carry {@code everstep.run}, {@code everstep.workflow}, {@code
   * everstep.step} and {@code everstep.attempt} in the MDC; replayed lines below WARN are dropped,
   * so that a resume does not repeat them.
   *
   * @return the logger {@code everstep.workflow}
   */
  public Logger log() {
    if (logger == null) {
      logger = ReplayLogger.of(execution, this::step);
    }
    return logger;
  }

  // -- steps

  /**
   * A step written where it is called.
   *
   * @param name its name
   * @param type type of its output
   * @param function what it does
   * @param <T> type of its output
   * @return the output, as recorded
   */
  public <T extends @Nullable Object> T step(
      String name, Class<T> type, InlineStep<? extends T> function) {
    return inline(name, Types.of(type), function, new StepOptions());
  }

  /**
   * A step written where it is called, with options.
   *
   * @param name its name
   * @param type type of its output
   * @param function what it does
   * @param options its policy
   * @param <T> type of its output
   * @return the output, as recorded
   */
  public <T extends @Nullable Object> T step(
      String name, Class<T> type, InlineStep<? extends T> function, Consumer<StepOptions> options) {
    return inline(name, Types.of(type), function, StepDeclarations.stepOptions(options));
  }

  /**
   * A step written where it is called.
   *
   * @param name its name
   * @param type type of its output
   * @param function what it does
   * @param <T> type of its output
   * @return the output, as recorded
   */
  public <T extends @Nullable Object> T step(
      String name, TypeRef<T> type, InlineStep<? extends T> function) {
    return inline(name, Types.of(type), function, new StepOptions());
  }

  /**
   * A step written where it is called, with options.
   *
   * @param name its name
   * @param type type of its output
   * @param function what it does
   * @param options its policy
   * @param <T> type of its output
   * @return the output, as recorded
   */
  public <T extends @Nullable Object> T step(
      String name,
      TypeRef<T> type,
      InlineStep<? extends T> function,
      Consumer<StepOptions> options) {
    return inline(name, Types.of(type), function, StepDeclarations.stepOptions(options));
  }

  @SuppressWarnings("unchecked")
  private <T extends @Nullable Object> T inline(
      String name, Type type, InlineStep<? extends T> function, StepOptions options) {
    Options.required(name, "the step's name");
    Options.required(function, "the step's function");
    check("step " + name);
    Registered.Body body = (ctx, step, input) -> function.run(step);
    Registered registered =
        new Registered(Registered.STEP, name, Void.class, type, options, false, body);
    return (T) StepCalls.call(this, registered, Ops.KIND_STEP, null, null, null, StepCalls::plain);
  }

  /**
   * Clean-up after a cancel: calls inside go on although the run was asked to cancel.
   *
   * @param body the clean-up
   * @param <T> type of its value
   * @return its value
   * @throws java.util.concurrent.CompletionException around a checked exception it throws
   */
  public <T extends @Nullable Object> T shielded(Branch<T> body) {
    check("shielded");
    WorkflowContext inner = new WorkflowContext(execution, branch, flags | Ops.FLAG_SHIELDED);
    try {
      inner.open();
      return body.run(inner);
    } catch (Exception error) {
      throw Failure.raise(error);
    } finally {
      inner.closed = true;
      open();
    }
  }

  // -- branches

  /**
   * Runs the branches at once; waits for every one, then raises the first failure in their order.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return their values in order
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SafeVarargs
  @SuppressWarnings("varargs")
  public final <T extends @Nullable Object> List<T> all(Branch<? extends T>... branches) {
    return all(listed(branches));
  }

  /**
   * Runs the branches at once; waits for every one, then raises the first failure in their order.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return their values in order
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SuppressWarnings("unchecked")
  public <T extends @Nullable Object> List<T> all(List<? extends Branch<? extends T>> branches) {
    return (List<T>) Groups.all("all", this, branches, null, Integer.MAX_VALUE);
  }

  private static <T> List<T> listed(T[] branches) {
    return Arrays.asList(Options.required(branches, "the branches"));
  }

  /**
   * One branch an item, all at once.
   *
   * @param items the items, in an order that is the same on replay
   * @param function given the context of the branch and the item
   * @param <A> type of the items
   * @param <T> type of the values
   * @return the values in the order of the items
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  public <A, T extends @Nullable Object> List<T> map(
      Collection<? extends A> items, MapFunction<? super A, ? extends T> function) {
    return map(items, function, options -> {});
  }

  /**
   * One branch an item.
   *
   * @param items the items
   * @param function given the context of the branch and the item
   * @param configurer keys that name the branches; how many at a time
   * @param <A> type of the items
   * @param <T> type of the values
   * @return the values in the order of the items
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SuppressWarnings("unchecked")
  public <A, T extends @Nullable Object> List<T> map(
      Collection<? extends A> items,
      MapFunction<? super A, ? extends T> function,
      Consumer<MapOptions<A>> configurer) {
    Options.required(function, "the function of map");
    MapOptions<A> options = new MapOptions<>();
    Options.required(configurer, "options").accept(options);
    List<Branch<T>> branches = new ArrayList<>();
    List<String> keys = options.key == null ? null : new ArrayList<>();
    for (A item : Options.required(items, "the items of map")) {
      branches.add(ctx -> function.run(ctx, item));
      if (keys != null && options.key != null) {
        keys.add(Options.required(options.key.apply(item), "the key of an item"));
      }
    }
    return (List<T>) Groups.all("map", this, branches, keys, options.limit);
  }

  /**
   * The first branch to succeed; the others get their cancel signal and are not waited for.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return the winner's value
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SafeVarargs
  @SuppressWarnings({"unchecked", "varargs"})
  public final <T extends @Nullable Object> T any(Branch<? extends T>... branches) {
    return (T) Groups.first("any", this, listed(branches));
  }

  /**
   * The first branch to settle, with its value or its error; the others get their cancel signal and
   * are not waited for.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return the winner's value
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SafeVarargs
  @SuppressWarnings({"unchecked", "varargs"})
  public final <T extends @Nullable Object> T race(Branch<? extends T>... branches) {
    return (T) Groups.first("race", this, listed(branches));
  }

  /**
   * The first branch to succeed, of branches counted at run time.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return the winner's value
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SuppressWarnings("unchecked")
  public <T extends @Nullable Object> T any(List<? extends Branch<? extends T>> branches) {
    return (T) Groups.first("any", this, branches);
  }

  /**
   * The first branch to settle, of branches counted at run time.
   *
   * @param branches functions, each given the context of its branch
   * @param <T> type of their values
   * @return the winner's value
   * @throws java.util.concurrent.CompletionException around a checked exception of a branch
   */
  @SuppressWarnings("unchecked")
  public <T extends @Nullable Object> T race(List<? extends Branch<? extends T>> branches) {
    return (T) Groups.first("race", this, branches);
  }

  // -- waits and values

  /**
   * A durable wait: it holds no slot, and goes on where it was after a restart.
   *
   * @param duration how long
   */
  public void sleep(Duration duration) {
    check("sleep");
    long millis = Math.max(0, Times.milliseconds(duration));
    Calls.recorded(this, Ops.BEGIN_WAIT, "sleep", Location.here(), millis);
  }

  /**
   * A durable wait for a point in time.
   *
   * @param when the point in time
   */
  public void sleepUntil(Instant when) {
    check("sleepUntil");
    long due = Times.microseconds(when);
    Calls.recorded(this, Ops.BEGIN_WAIT, "sleep", Location.here(), null, due);
  }

  /**
   * The database's time, recorded: the same on every replay.
   *
   * @return the point in time
   */
  public Instant now() {
    return Times.instant(value("now", Long.class));
  }

  /**
   * A random uuid, recorded.
   *
   * @return the uuid
   */
  public UUID uuid() {
    return value("uuid", UUID.class);
  }

  /**
   * A random number, recorded.
   *
   * @return in [0, 1)
   */
  public double random() {
    return value("random", Double.class);
  }

  private <T> T value(String which, Class<T> type) {
    check(which);
    byte[] data = Calls.recorded(this, Ops.BEGIN_VALUE, which, Location.here());
    return type.cast(Options.required(execution.engine.payloads.decode(data, type), which));
  }

  /**
   * The next message of a topic to this run, exactly once; waits as long as it takes.
   *
   * @param topic the topic
   * @param type type of the message
   * @param <T> type of the message
   * @return the message
   */
  @SuppressWarnings("unchecked")
  public <T extends @Nullable Object> T receive(String topic, Class<T> type) {
    return (T) receive(topic, Types.of(type), (Duration) null);
  }

  /**
   * The next message of a topic to this run, exactly once; waits as long as it takes.
   *
   * @param topic the topic
   * @param type type of the message
   * @param <T> type of the message
   * @return the message
   */
  @SuppressWarnings("unchecked")
  public <T extends @Nullable Object> T receive(String topic, TypeRef<T> type) {
    return (T) receive(topic, Types.of(type), (Duration) null);
  }

  /**
   * The next message of a topic to this run, exactly once.
   *
   * @param topic the topic
   * @param type type of the message
   * @param timeout how long to wait
   * @param <T> type of the message
   * @return the message; empty when the time is over, and where it is null
   */
  @SuppressWarnings("unchecked")
  public <T> Optional<T> receive(String topic, Class<T> type, Duration timeout) {
    Options.required(timeout, "timeout");
    return Optional.ofNullable((T) receive(topic, Types.of(type), timeout));
  }

  /**
   * The next message of a topic to this run, exactly once.
   *
   * @param topic the topic
   * @param type type of the message
   * @param timeout how long to wait
   * @param <T> type of the message
   * @return the message; empty when the time is over, and where it is null
   */
  @SuppressWarnings("unchecked")
  public <T> Optional<T> receive(String topic, TypeRef<T> type, Duration timeout) {
    Options.required(timeout, "timeout");
    return Optional.ofNullable((T) receive(topic, Types.of(type), timeout));
  }

  private @Nullable Object receive(String topic, Type type, @Nullable Duration timeout) {
    check("receive");
    return awaited("receive", timeout, null, Options.required(topic, "topic"), type);
  }

  private @Nullable Object awaited(
      String kind, @Nullable Duration timeout, @Nullable String run, String name, Type type) {
    Long millis = Options.milliseconds(timeout);
    String at = Location.here();
    byte[] data =
        run == null
            ? Calls.recorded(this, Ops.BEGIN_WAIT, kind, at, millis, null, null, name)
            : Calls.recordedOf(run, this, Ops.BEGIN_WAIT, kind, at, millis, null, run, name);
    return execution.engine.payloads.decode(data, type);
  }

  /**
   * A message to a run, recorded with this one; kept until it is received.
   *
   * @param id the other run's id
   * @param topic the topic
   * @param message the message
   */
  public void send(String id, String topic, @Nullable Object message) {
    send(execution.engine.handleOf(id), topic, message);
  }

  /**
   * A message to a run, recorded with this one; kept until it is received.
   *
   * @param run the other run
   * @param topic the topic
   * @param message the message
   */
  public void send(Run<?> run, String topic, @Nullable Object message) {
    send(run, topic, message, null);
  }

  /**
   * The same, once only, however many runs and calls send it.
   *
   * @param run the other run
   * @param topic the topic
   * @param message the message
   * @param idempotencyKey a second message of this key to that run is dropped
   */
  public void send(
      Run<?> run, String topic, @Nullable Object message, @Nullable String idempotencyKey) {
    check("send");
    Options.required(run, "the run");
    byte[] data = execution.engine.payloads.encode(message);
    Calls.recordedOf(
        run.key(),
        this,
        Ops.BEGIN_SEND,
        Location.here(),
        run.key(),
        Options.required(topic, "topic"),
        data,
        idempotencyKey);
  }

  /**
   * Publishes a value of this run; others wait for it with {@code getEvent}.
   *
   * @param key its name
   * @param value the value
   */
  public void setEvent(String key, @Nullable Object value) {
    check("setEvent");
    byte[] data = execution.engine.payloads.encode(value);
    Calls.recorded(
        this, Ops.BEGIN_EVENT, Location.here(), Options.required(key, "the event's key"), data);
  }

  /**
   * Waits for an event of a run.
   *
   * @param id the other run's id
   * @param key the event's name
   * @param type type of its value
   * @param timeout how long to wait; null: as long as it takes
   * @param <T> type of its value
   * @return the value; empty when there is none: its time is over, its run has ended, or null
   */
  public <T> Optional<T> getEvent(
      String id, String key, Class<T> type, @Nullable Duration timeout) {
    return getEvent(execution.engine.handleOf(id), key, type, timeout);
  }

  /**
   * Waits for an event of a run.
   *
   * @param run the other run
   * @param key the event's name
   * @param type type of its value
   * @param timeout how long to wait; null: as long as it takes
   * @param <T> type of its value
   * @return the value; empty when there is none: its time is over, its run has ended, or null
   */
  @SuppressWarnings("unchecked")
  public <T> Optional<T> getEvent(
      Run<?> run, String key, Class<T> type, @Nullable Duration timeout) {
    return Optional.ofNullable((T) event(run, key, Types.of(type), timeout));
  }

  /**
   * Waits for an event of a run, of a generic type.
   *
   * @param run the other run
   * @param key the event's name
   * @param type type of its value
   * @param timeout how long to wait; null: as long as it takes
   * @param <T> type of its value
   * @return the value; empty when there is none: its time is over, its run has ended, or null
   */
  @SuppressWarnings("unchecked")
  public <T> Optional<T> getEvent(
      Run<?> run, String key, TypeRef<T> type, @Nullable Duration timeout) {
    return Optional.ofNullable((T) event(run, key, Types.of(type), timeout));
  }

  private @Nullable Object event(Run<?> run, String key, Type type, @Nullable Duration timeout) {
    check("getEvent");
    Options.required(run, "the run");
    return awaited("event", timeout, run.key(), Options.required(key, "the event's key"), type);
  }

  /**
   * Changes code under running workflows.
   *
   * @param name the change's name
   * @return true for runs that reach this point after the change, false for those recorded before
   *     it
   */
  public boolean patch(String name) {
    check("patch");
    return Calls.call(
            this,
            Ops.PATCH,
            branch,
            flags,
            Options.required(name, "the patch's name"),
            Location.here())
        .flag(0);
  }
}
