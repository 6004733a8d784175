package dev.everstep;

import java.io.InterruptedIOException;
import java.lang.reflect.Type;
import java.nio.channels.ClosedByInterruptException;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Calls of a step: what is recorded is answered, what is not is run, and its outcome recorded. */
final class StepCalls {
  /** Immutable, and what they decode to is what they were: these need not be read back. */
  private static final Set<Type> AS_THEY_ARE =
      Set.of(String.class, Integer.class, Long.class, Boolean.class, Void.class);

  private StepCalls() {}

  /** How an attempt ended, as {@code finish_step} says it. */
  record Outcome(
      @Nullable Object value,
      boolean failed,
      byte[] output,
      boolean retryable,
      @Nullable String type,
      @Nullable String message,
      boolean stopped) {
    /** Cut short by a stop or a cancel: nothing is recorded. */
    static final Outcome CUT_SHORT = new Outcome(null, false, new byte[0], false, null, null, true);
  }

  /** Runs one attempt and says how it ended; answers with the next verdict. */
  @FunctionalInterface
  interface Attempt {
    Frame.Values run(Call call);
  }

  /** One call of a step. */
  static final class Call {
    final WorkflowContext ctx;
    final Registered function;
    final @Nullable Object input;
    Frame.Values verdict;
    @Nullable Outcome sent;
    private @Nullable RunningStep last;

    Call(WorkflowContext ctx, Registered function, @Nullable Object input, Frame.Values verdict) {
      this.ctx = ctx;
      this.function = function;
      this.input = input;
      this.verdict = verdict;
    }

    /** The attempt that the verdict asks for, where signals reach it. */
    RunningStep enter() {
      RunningStep running =
          new RunningStep(
              ctx.execution, function.name, (int) verdict.number(2), verdict.text(3), ctx.flags);
      ctx.execution.running.enter(place(), running);
      ctx.enter(running);
      RunningStep before = last;
      if (before != null && before.attempt() == running.attempt() && before.isTimedOut()) {
        // After a conflict the attempt goes on, and its time is over: it was so between two tries.
        running.raise("timeout");
      }
      last = running;
      return running;
    }

    private RunningSteps.Place place() {
      return new RunningSteps.Place(ctx.branch, verdict.number(1));
    }

    /** Tells the engine how this attempt ended. The answer is the next verdict. */
    Frame.Values end(int op, @Nullable Object... arguments) {
      RunningSteps.Place place = place();
      RunningSteps steps = ctx.execution.running;
      return Calls.request(ctx, new Waiter.Parked(() -> steps.answered(place)), op, arguments);
    }

    /** Records the outcome of this attempt. */
    Frame.Values finish(Outcome outcome) {
      sent = outcome;
      return end(
          Ops.FINISH_STEP,
          ctx.execution.id,
          ctx.branch,
          verdict.number(1),
          verdict.number(2),
          outcome.failed,
          outcome.output,
          outcome.retryable,
          outcome.type,
          outcome.message,
          outcome.stopped);
    }
  }

  static @Nullable Object call(
      WorkflowContext ctx,
      Registered function,
      int kind,
      @Nullable Object input,
      byte @Nullable [] arguments,
      @Nullable String key,
      Attempt attempt) {
    Execution execution = ctx.execution;
    Calls.Asked asked =
        Calls.begin(
            ctx,
            Ops.BEGIN_STEP,
            kind,
            function.name,
            Location.here(),
            arguments,
            key,
            function.policy);
    Call call = new Call(ctx, function, input, asked.verdict);
    while (true) {
      switch ((int) call.verdict.number(0)) {
        case Ops.VERDICT_RUN -> {
          execution.replaying = false;
          call.verdict = attempt.run(call);
        }
        case Ops.VERDICT_RECORDED -> {
          return result(call);
        }
        case Ops.VERDICT_PENDING -> {
          asked.settle();
          call.verdict = asked.verdict;
        }
        default -> throw Calls.unwind(execution, call.verdict);
      }
    }
  }

  private static @Nullable Object result(Call call) {
    Engine engine = call.ctx.execution.engine;
    byte[] value = call.verdict.bytes(2);
    Outcome sent = call.sent;
    boolean own = value == null && sent != null;
    if (call.verdict.flag(1)) {
      throw Calls.failed(engine, own ? sent.output : value);
    }
    if (own) {
      return AS_THEY_ARE.contains(call.function.output)
          ? sent.value
          : engine.payloads.decode(sent.output, call.function.output);
    }
    return engine.payloads.decode(value, call.function.output);
  }

  /** One attempt of a step that is no transaction. */
  static Frame.Values plain(Call call) {
    RunningStep running = call.enter();
    Outcome outcome;
    try {
      outcome = body(call.ctx, call.function, running, call.input);
    } finally {
      call.ctx.leave();
    }
    return call.finish(outcome);
  }

  static Outcome body(
      WorkflowContext ctx, Registered function, RunningStep running, @Nullable Object input) {
    if (ctx.execution.stopped != null) {
      running.raise("stop");
    }
    if (running.signal() != null) {
      // It came before its thread did: the function would begin interrupted, with nothing to count.
      return "timeout".equals(running.end())
          ? timedOut(function, ctx.execution)
          : Outcome.CUT_SHORT;
    }
    try {
      Object value = Engine.bodyOf(function).run(ctx, running, input);
      return "timeout".equals(running.end())
          ? timedOut(function, ctx.execution)
          : returned(function, value, ctx.execution);
    } catch (ExecutionStopped stop) {
      running.end();
      throw stop;
    } catch (Throwable error) {
      return threw(function, error, running.end(), ctx.execution);
    }
  }

  static Outcome threw(
      Registered function, Throwable error, @Nullable String signal, Execution execution) {
    if ("timeout".equals(signal)) {
      return timedOut(function, execution);
    }
    boolean cut = isInterruption(error);
    if (signal != null && cut) {
      return Outcome.CUT_SHORT;
    }
    // An interrupt or a Cancelled that nobody sent: a failure of the program's own.
    return raised(function, error, execution, error instanceof Cancelled || isRefused(error));
  }

  /** A function that ends its transaction itself does so in every attempt. */
  private static boolean isRefused(Throwable error) {
    int depth = 0;
    for (Throwable at = error; at != null && depth < 8; at = Failure.causeIn(at), depth++) {
      if (at instanceof EverstepException known && known.code() == ErrorCode.TRANSACTION_FAILED) {
        return true;
      }
    }
    return false;
  }

  static boolean isInterruption(Throwable error) {
    int depth = 0;
    for (Throwable at = error; at != null && depth < 8; at = Failure.causeIn(at), depth++) {
      if (at instanceof InterruptedException
          || at instanceof Cancelled
          || at instanceof WaitInterrupted
          || at instanceof ClosedByInterruptException
          || at instanceof InterruptedIOException) {
        return true;
      }
    }
    return false;
  }

  static Outcome returned(Registered function, @Nullable Object value, Execution execution) {
    byte[] output;
    try {
      output = output(function, value, execution);
    } catch (EverstepException | OutOfMemoryError error) {
      return raised(function, error, execution, true);
    }
    return new Outcome(value, false, output, false, null, null, false);
  }

  static byte[] output(Registered function, @Nullable Object value, Execution execution) {
    try {
      return execution.engine.payloads.encode(value, function.output);
    } catch (EverstepException error) {
      throw Payloads.invalid("result of " + function.name + ": " + error.getMessage());
    }
  }

  static Outcome raised(
      Registered function, Throwable error, Execution execution, boolean isFinal) {
    boolean retryable = !isFinal && retryable(function, error);
    Failure failure = failure(error, execution.engine, retryable);
    return new Outcome(
        null,
        true,
        failure.encode(execution.engine.payloads),
        retryable,
        clipped(failure.type(), 255),
        clipped(failure.message(), 1000),
        false);
  }

  static boolean retryable(Registered function, Throwable error) {
    return function.declared.retryable(error);
  }

  /** A declared error whose fields cannot be read still leaves its failure. */
  static Failure failure(Throwable error, Engine engine, boolean retryable) {
    try {
      return Failure.of(error, engine.declaredErrors, retryable);
    } catch (RuntimeException | Error broken) {
      String why =
          broken instanceof EverstepException known
              ? String.valueOf(known.getMessage())
              : "<its fields raised " + Failure.typeOf(broken) + ">";
      return new Failure(Failure.typeOf(error), null, why, null, null, null, retryable);
    }
  }

  static String clipped(String text, int length) {
    return Failure.printable(text.length() <= length ? text : text.substring(0, length));
  }

  static Outcome timedOut(Registered function, Execution execution) {
    Long limit = Options.milliseconds(function.declared.timeout);
    return raised(
        function,
        new StepTimeout(
            "step " + function.name + " took longer than " + limit + " ms",
            EverstepException.About.NOTHING),
        execution,
        false);
  }
}
