package dev.everstep;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * What can be started as a run of its own.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
public abstract sealed class Startable<I extends @Nullable Object, O extends @Nullable Object>
    permits StepRef, WorkflowRef {
  final Engine engine;
  final Registered function;

  Startable(Engine engine, Registered function) {
    this.engine = engine;
    this.function = function;
  }

  /**
   * The name its runs go by.
   *
   * @return the name
   */
  public final String name() {
    return function.name;
  }

  /**
   * Starts a run.
   *
   * @param input its input
   * @return its handle
   */
  public final Run<O> start(I input) {
    return start(input, options -> {});
  }

  /**
   * Starts a run, or attaches to the run of this id.
   *
   * @param input its input
   * @param options id, queue, delay and so on
   * @return its handle
   * @throws EverstepException {@code id_conflict}: the id or dedup key is another workflow's;
   *     {@code run_deduplicated}: the dedup key is taken, and its rule is to reject; {@code
   *     run_purged}: retention has removed the run of this id ({@link RunOptions#reusePurged});
   *     {@code unknown_queue} and {@code unknown_workflow} name the nearest name ({@link
   *     RunOptions#unchecked}); {@code payload_too_large} and {@code payload_invalid} the input;
   *     {@code id_invalid} and {@code config_invalid} what was given; after {@code unavailable} and
   *     {@code closed} it may have started all the same, so repeat it with the same id
   */
  public final Run<O> start(I input, Consumer<RunOptions> options) {
    requireStartable();
    WorkflowContext.refuseInside(engine, "start()", "start(ctx, input)");
    RunOptions run = RunOptions.of(function, options);
    Frame.Values answer =
        engine.client().request(Ops.START, function.name, encode(input), run.record());
    return started(run.id, answer);
  }

  /**
   * The same without blocking.
   *
   * @param input its input
   * @param options id, queue, delay and so on
   * @return completes once the start is committed
   */
  public final CompletableFuture<Run<O>> startAsync(I input, Consumer<RunOptions> options) {
    requireStartable();
    WorkflowContext.refuseInside(engine, "startAsync()", "start(ctx, input)");
    RunOptions run = RunOptions.of(function, options);
    return engine
        .client()
        .requestAsync(
            answer -> started(run.id, answer),
            null,
            Ops.START,
            function.name,
            encode(input),
            run.record());
  }

  /**
   * Starts a child of the workflow {@code ctx} belongs to; the start is recorded there.
   *
   * @param ctx the parent's context
   * @param input the child's input
   * @return its handle
   */
  public final Run<O> start(WorkflowContext ctx, I input) {
    return start(ctx, input, options -> {});
  }

  /**
   * Starts a child of the workflow {@code ctx} belongs to; the start is recorded there.
   *
   * @param ctx the parent's context
   * @param input the child's input
   * @param options id, queue, delay and so on
   * @return its handle
   */
  public final Run<O> start(WorkflowContext ctx, I input, Consumer<RunOptions> options) {
    requireStartable();
    requireOwn(ctx, "start of ");
    RunOptions run = RunOptions.of(function, options);
    byte[] key =
        Calls.recorded(
            ctx,
            Ops.BEGIN_CHILD,
            Location.here(),
            function.name,
            encode(input),
            run.record(),
            run.parentClose);
    String text = (String) Options.required(engine.payloads.decode(key, String.class), "the key");
    return new Run<>(engine, text, run.id, false, function);
  }

  /**
   * Starts a run an input, in one round trip.
   *
   * @param inputs the inputs
   * @param id names the run of an input, so that a repeat attaches; null: random ids
   * @param options what all of them share
   * @return their handles, in order
   */
  public final List<Run<O>> startMany(
      List<? extends I> inputs,
      @Nullable Function<? super I, String> id,
      Consumer<RunOptions> options) {
    requireStartable();
    WorkflowContext.refuseInside(engine, "startMany()", "start(ctx, input)");
    List<@Nullable Object> items = new ArrayList<>();
    List<@Nullable String> ids = new ArrayList<>();
    for (I input : Options.required(inputs, "inputs")) {
      RunOptions run = RunOptions.of(function, options);
      if (id != null) {
        run.id(id.apply(input));
      }
      ids.add(run.id);
      List<@Nullable Object> item = new ArrayList<>();
      item.add(encode(input));
      item.add(run.record());
      items.add(item);
    }
    Frame.Values answer = engine.client().request(Ops.START_MANY, function.name, items);
    List<Run<O>> out = new ArrayList<>();
    int count = answer.list(0).size();
    for (int index = 0; index < count; index++) {
      Frame.Values item = answer.record(0).record(index);
      if (item.optionalText(2) != null) {
        throw EverstepException.ofAnswer(item.text(2), "item " + index + ": " + item.text(3));
      }
      out.add(new Run<>(engine, item.text(0), ids.get(index), item.flag(1), function));
    }
    return out;
  }

  /** A transaction is never announced, so that a run of its name would wait for ever. */
  private void requireStartable() {
    Registered named = function.isForeign() ? engine.registered(function.name) : function;
    if (named != null && !named.startable) {
      throw Options.invalid(
          function.name
              + " is a transaction, which has no run of its own: call it in a workflow, and start"
              + " that");
    }
  }

  /** A call that this engine would answer but the run's engine would record. */
  final void requireOwn(WorkflowContext ctx, String what) {
    Options.required(ctx, "the context").check(what + function.name);
    if (ctx.execution.engine != engine) {
      throw new EverstepException(
          ErrorCode.OUTSIDE_RUN,
          what + function.name + ": it belongs to another engine than the run of this context");
    }
  }

  private Run<O> started(@Nullable String id, Frame.Values answer) {
    return new Run<>(engine, answer.text(0), id, answer.flag(1), function);
  }

  byte[] encode(I input) {
    try {
      return engine.payloads.encode(input, function.input);
    } catch (EverstepException error) {
      throw Payloads.invalid("input of " + function.name + ": " + error.getMessage());
    }
  }
}
