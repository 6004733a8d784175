package dev.everstep;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/**
 * A run's handle. Made without a look at the database.
 *
 * @param <T> type of the run's output
 */
public final class Run<T extends @Nullable Object> {
  private static final int PAGE = 500;

  private final Engine engine;
  private final String key;
  private final @Nullable String id;
  private final boolean attached;
  private final Registered function;

  Run(Engine engine, String key, @Nullable String id, boolean attached, Registered function) {
    this.engine = engine;
    this.key = key;
    this.id = id;
    this.attached = attached;
    this.function = function;
  }

  /**
   * The run's key.
   *
   * @return a uuid
   */
  public String key() {
    return key;
  }

  /**
   * The id it was started with, as far as this handle knows.
   *
   * @return the id, or null
   */
  public @Nullable String id() {
    return id;
  }

  /**
   * Whether the run existed before this start.
   *
   * @return true when it did
   */
  public boolean attached() {
    return attached;
  }

  /**
   * Waits for the end, as long as it takes.
   *
   * @return the run's output
   * @throws RunFailed with the run's own error as its cause
   * @throws RunCancelled when it was cancelled
   * @throws RunBlocked when it waits for a fix
   */
  public T result() {
    return outcome(null);
  }

  /**
   * Waits for the end.
   *
   * @param timeout how long
   * @return the run's output
   * @throws RunFailed with the run's own error as its cause
   * @throws RunCancelled when it was cancelled
   * @throws RunBlocked when it waits for a fix
   * @throws ResultTimeout when it is not finished; the text says what it waits for
   */
  public T result(Duration timeout) {
    return outcome(Times.milliseconds(Options.required(timeout, "timeout")));
  }

  private T outcome(@Nullable Long timeoutMillis) {
    WorkflowContext.refuseInside(engine, "result()", "run.result(ctx)");
    engine.warnUnlaunched();
    return read(ask(Ops.AWAIT_RESULT, timeoutMillis));
  }

  /**
   * The same without blocking.
   *
   * @return completes with the output, or exceptionally as {@link #result()} throws
   */
  public CompletableFuture<T> resultAsync() {
    return outcomeAsync(null);
  }

  /**
   * The same without blocking, for so long. {@code orTimeout} of the future ends the wait, too, but
   * does not say what the run waits for.
   *
   * @param timeout how long
   * @return completes with the output, or exceptionally as {@link #result(Duration)} throws
   */
  public CompletableFuture<T> resultAsync(Duration timeout) {
    return outcomeAsync(Times.milliseconds(Options.required(timeout, "timeout")));
  }

  private CompletableFuture<T> outcomeAsync(@Nullable Long timeoutMillis) {
    WorkflowContext.refuseInside(engine, "resultAsync()", "run.result(ctx)");
    engine.warnUnlaunched();
    return engine.client().requestAsync(this::read, key, Ops.AWAIT_RESULT, key, timeoutMillis);
  }

  /** A question about this run; an error of the engine names it. */
  private Frame.Values ask(int op, @Nullable Object... rest) {
    @Nullable Object[] arguments = Calls.joined(new @Nullable Object[] {key}, rest);
    try {
      return engine.client().request(op, arguments);
    } catch (EverstepException error) {
      error.about(key);
      throw error;
    }
  }

  @SuppressWarnings("unchecked")
  private T read(Frame.Values answer) {
    if (answer.text(0).equals("succeeded")) {
      return (T) engine.payloads.decode(answer.bytes(1), function.output);
    }
    Failure failure = Failure.read(engine.payloads, answer.bytes(1));
    if (answer.text(0).equals("cancelled")) {
      String why = failure.message().isEmpty() ? "the run was cancelled" : failure.message();
      throw new RunCancelled(why, EverstepException.About.run(key));
    }
    throw failure.ofRun(key, engine.declaredErrors);
  }

  /**
   * Waits inside a workflow; what it saw is recorded.
   *
   * @param ctx the waiting workflow's context
   * @return the run's output
   */
  public T result(WorkflowContext ctx) {
    return await(ctx, null);
  }

  /**
   * Waits inside a workflow; what it saw is recorded.
   *
   * @param ctx the waiting workflow's context
   * @param timeout how long
   * @return the run's output
   * @throws ResultTimeout when it is not finished
   */
  public T result(WorkflowContext ctx, Duration timeout) {
    return await(ctx, Times.milliseconds(timeout));
  }

  @SuppressWarnings("unchecked")
  private T await(WorkflowContext ctx, @Nullable Long timeoutMillis) {
    Options.required(ctx, "the context").check("result");
    Frame.Values verdict =
        Calls.settled(ctx, Ops.BEGIN_WAIT, "result", Location.here(), timeoutMillis, null, key);
    if (!verdict.flag(1)) {
      return (T) engine.payloads.decode(verdict.bytes(2), function.output);
    }
    Failure failure = Failure.read(engine.payloads, verdict.bytes(2));
    ErrorCode code = ErrorCode.of(failure.code());
    if (code == ErrorCode.RESULT_TIMEOUT || code == ErrorCode.RUN_NOT_FOUND) {
      Throwable error = failure.exception(engine.declaredErrors);
      if (error instanceof EverstepException ours) {
        ours.about(key);
      }
      throw Failure.raise(error, failure);
    }
    throw failure.ofRun(key, engine.declaredErrors);
  }

  /**
   * The run as the database has it now.
   *
   * @return its status
   * @throws EverstepException {@code run_not_found}
   */
  public RunInfo status() {
    Frame.Values answer = ask(Ops.GET_RUN);
    if (answer.get(0) == null) {
      throw new EverstepException(
          ErrorCode.RUN_NOT_FOUND,
          "there is no run " + (id == null ? key : id),
          EverstepException.About.run(key));
    }
    return RunInfo.of(answer.record(0));
  }

  /**
   * Every recorded call, in order of position.
   *
   * @return the calls
   */
  public List<StepInfo> steps() {
    List<StepInfo> out = new ArrayList<>();
    String after = null;
    do {
      Frame.Values answer = ask(Ops.LIST_STEPS, after, PAGE);
      int count = answer.list(0).size();
      for (int index = 0; index < count; index++) {
        out.add(StepInfo.of(answer.record(0).record(index)));
      }
      after = answer.optionalText(1);
    } while (after != null);
    return out;
  }

  /**
   * Asks the run to cancel.
   *
   * @return what it did: cancelled, requested or already finished
   */
  public Outcome cancel() {
    return cancel(null, null);
  }

  /**
   * Asks the run to cancel.
   *
   * @param by who asks
   * @param why the reason
   * @return what it did: cancelled, requested or already finished
   */
  public Outcome cancel(@Nullable String by, @Nullable String why) {
    return Outcome.of(ask(Ops.CANCEL_RUN, by, why).text(0));
  }

  /**
   * A blocked or cancelled run goes on.
   *
   * @return what it did: resumed, or not possible
   */
  public Outcome resume() {
    return resume(null);
  }

  /**
   * A blocked or cancelled run goes on.
   *
   * @param by who asks
   * @return what it did: resumed, or not possible
   */
  public Outcome resume(@Nullable String by) {
    return Outcome.of(ask(Ops.RESUME_RUN, by).text(0));
  }

  /**
   * A failed run goes on at the step that failed.
   *
   * @return what it did: resumed, or not possible
   */
  public Outcome retry() {
    return retry(null);
  }

  /**
   * A failed run goes on at the step that failed.
   *
   * @param by who asks
   * @return what it did: resumed, or not possible
   */
  public Outcome retry(@Nullable String by) {
    return Outcome.of(ask(Ops.RETRY_RUN, by).text(0));
  }

  /**
   * Forgets the step at this position and everything completed since; the run goes on from there.
   *
   * @param branch the branch, {@code ""} for the main one
   * @param seq the call's number in it
   * @return what it did: resumed, or not possible
   */
  public Outcome rewind(String branch, long seq) {
    return rewind(branch, seq, null, false);
  }

  /**
   * Forgets the step at this position and everything completed since; the run goes on from there.
   *
   * @param branch the branch, {@code ""} for the main one
   * @param seq the call's number in it
   * @param by who asks
   * @return what it did: resumed, or not possible
   */
  public Outcome rewind(String branch, long seq, @Nullable String by) {
    return rewind(branch, seq, by, false);
  }

  /**
   * Forgets the step at this position and everything completed since; the run goes on from there.
   *
   * @param branch the branch, {@code ""} for the main one
   * @param seq the call's number in it
   * @param by who asks
   * @param newEffects false: idempotency keys stay as they were, so the other side takes a repeated
   *     call for the one it knows; true: they are new, as are messages sent and children started
   *     again
   * @return what it did: resumed, or not possible
   */
  public Outcome rewind(String branch, long seq, @Nullable String by, boolean newEffects) {
    String place = Options.required(branch, "the branch (\"\" is the main one)");
    return Outcome.of(ask(Ops.REWIND_RUN, place, seq, by, newEffects).text(0));
  }

  /**
   * A message to the run; kept until it is received. Inside a workflow use {@link
   * WorkflowContext#send(Run, String, Object)}.
   *
   * @param topic the topic
   * @param message the message
   */
  public void send(String topic, @Nullable Object message) {
    send(topic, message, null);
  }

  /**
   * The same, once only.
   *
   * @param topic the topic
   * @param message the message
   * @param idempotencyKey a second message of this key is dropped
   */
  public void send(String topic, @Nullable Object message, @Nullable String idempotencyKey) {
    WorkflowContext.refuseInside(engine, "send()", "ctx.send(run, topic, message)");
    byte[] data = engine.payloads.encode(message);
    ask(Ops.SEND, Options.required(topic, "topic"), data, idempotencyKey);
  }

  /**
   * Waits for an event the run publishes. Inside a workflow use {@link
   * WorkflowContext#getEvent(Run, String, Class, Duration)}.
   *
   * @param name the event's name
   * @param type type of its value
   * @param timeout how long to wait; null: as long as it takes
   * @param <E> type of its value
   * @return the value; empty when there is none: its time is over, its run has ended, or null
   */
  @SuppressWarnings("unchecked")
  public <E> Optional<E> getEvent(String name, Class<E> type, @Nullable Duration timeout) {
    return Optional.ofNullable((E) event(name, Types.of(type), timeout));
  }

  /**
   * Waits for an event of this run, of a generic type, from outside.
   *
   * @param name the event's name
   * @param type type of its value
   * @param timeout how long to wait; null: as long as it takes
   * @param <E> type of its value
   * @return the value; empty when there is none: its time is over, its run has ended, or null
   */
  @SuppressWarnings("unchecked")
  public <E> Optional<E> getEvent(String name, TypeRef<E> type, @Nullable Duration timeout) {
    return Optional.ofNullable((E) event(name, Types.of(type), timeout));
  }

  private @Nullable Object event(
      String name, java.lang.reflect.Type type, @Nullable Duration timeout) {
    WorkflowContext.refuseInside(engine, "getEvent()", "ctx.getEvent(run, ..)");
    Frame.Values answer =
        ask(
            Ops.GET_EVENT,
            Options.required(name, "the event's key"),
            Options.milliseconds(timeout));
    return engine.payloads.decode(answer.bytes(0), type);
  }

  @Override
  public boolean equals(@Nullable Object other) {
    return other instanceof Run<?> run && run.key.equals(key);
  }

  @Override
  public int hashCode() {
    return key.hashCode();
  }

  @Override
  public String toString() {
    return "Run[" + (id == null ? key : id) + "]";
  }
}
