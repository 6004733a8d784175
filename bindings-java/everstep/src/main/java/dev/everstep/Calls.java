package dev.everstep;

import java.util.Arrays;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Asking the engine for a place in the run, and what verdicts mean that end the calling code. */
final class Calls {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  private Calls() {}

  /** A call asked for: the first verdict, and who gets the later ones. */
  static final class Asked {
    final WorkflowContext ctx;
    private final long token;
    private final Waiter.Parked waiter = new Waiter.Parked();
    Frame.Values verdict;

    private Asked(WorkflowContext ctx, int op, @Nullable Object[] rest) {
      this.ctx = ctx;
      Execution execution = ctx.execution;
      this.token = execution.client.expect(waiter);
      boolean begun = false;
      try {
        verdict = Calls.call(ctx, op, head(ctx).add(ctx.branch, token, ctx.flags).add(rest));
        begun = true;
      } finally {
        if (!begun || verdict.number(0) != Ops.VERDICT_PENDING) {
          execution.client.forget(token);
        }
      }
    }

    /** The verdict that a pending one stands for. */
    void settle() {
      if (verdict.number(0) == Ops.VERDICT_PENDING) {
        ctx.execution.replaying = false;
        verdict = answered(ctx, () -> waiter.await(false));
      }
    }
  }

  static Asked begin(WorkflowContext ctx, int op, @Nullable Object... rest) {
    ended(ctx);
    return new Asked(ctx, op, rest);
  }

  /** An operation of this execution that is answered in memory. */
  static Frame.Values call(WorkflowContext ctx, int op, @Nullable Object... arguments) {
    return call(ctx, op, head(ctx).add(arguments));
  }

  private static Frame head(WorkflowContext ctx) {
    return Frame.of(ctx.execution.id);
  }

  private static Frame.Values call(WorkflowContext ctx, int op, Frame frame) {
    ended(ctx);
    try {
      return ctx.execution.client.call(op, frame);
    } catch (EverstepException error) {
      if (error.code() == ErrorCode.STOPPED || error.code() == ErrorCode.CLOSED) {
        throw stopped(ctx.execution, error.errorCode());
      }
      throw error;
    }
  }

  /** An operation of this execution that is answered later, on a thread of the engine's. */
  static Frame.Values request(WorkflowContext ctx, int op, @Nullable Object... arguments) {
    return request(ctx, new Waiter.Parked(), op, arguments);
  }

  static Frame.Values request(
      WorkflowContext ctx, Waiter.Parked waiter, int op, @Nullable Object... arguments) {
    ended(ctx);
    return answered(ctx, () -> ctx.execution.client.request(waiter, false, op, arguments));
  }

  /** No answer comes to what has ended: its code is not to go on with an error it may catch. */
  private static Frame.Values answered(WorkflowContext ctx, Supplier<Frame.Values> wait) {
    try {
      return wait.get();
    } catch (Client.LostAnswer lost) {
      throw giveBack(ctx.execution, "internal");
    } catch (EverstepException error) {
      if (error.code() == ErrorCode.CLOSED) {
        throw stopped(ctx.execution, error.errorCode());
      }
      throw error;
    }
  }

  /** This process cannot go on with the run; another one, or this one later, does. */
  static ExecutionStopped giveBack(Execution execution, String why) {
    execution.stop(why);
    try {
      execution.client.call(Ops.ABANDON, execution.id, why);
    } catch (EverstepException error) {
      LOG.debug("run {} was not given back: {}", execution.run, error.getMessage());
    }
    return stopped(execution, why);
  }

  private static void ended(WorkflowContext ctx) {
    String why = ctx.execution.stopped;
    if (why != null) {
      throw stopped(ctx.execution, why);
    }
  }

  static ExecutionStopped stopped(Execution execution, String why) {
    // A stop of one branch or one attempt: the execution goes on.
    if (!why.equals("branch_closed") && !why.equals("superseded") && execution.stopped == null) {
      execution.stopped = why;
    }
    if (execution.stoppedAt == null) {
      execution.stoppedAt = Location.here();
    }
    return new ExecutionStopped(why);
  }

  /** Verdicts after which the calling code does not go on. */
  static Error unwind(Execution execution, Frame.Values verdict) {
    if (verdict.number(0) == Ops.VERDICT_CANCELLED) {
      execution.cancel(verdict.text(1), verdict.text(2));
      throw execution.cancelled();
    }
    String why = verdict.text(1);
    return stopped(execution, why.isEmpty() ? "stopped" : why);
  }

  /** A call that runs nothing here: its value, null where there is none. */
  static byte @Nullable [] recorded(WorkflowContext ctx, int op, @Nullable Object... rest) {
    Frame.Values verdict = settled(ctx, op, rest);
    if (verdict.flag(1)) {
      throw failed(ctx.execution.engine, verdict.bytes(2));
    }
    return verdict.bytes(2);
  }

  /** The same of a call to another run, which its error names. */
  static byte @Nullable [] recordedOf(
      String run, WorkflowContext ctx, int op, @Nullable Object... rest) {
    try {
      return recorded(ctx, op, rest);
    } catch (EverstepException error) {
      error.about(run);
      throw error;
    }
  }

  /** The verdict `recorded` of such a call, failed or not. */
  static Frame.Values settled(WorkflowContext ctx, int op, @Nullable Object... rest) {
    Asked asked = begin(ctx, op, rest);
    asked.settle();
    if (asked.verdict.number(0) != Ops.VERDICT_RECORDED) {
      throw unwind(ctx.execution, asked.verdict);
    }
    return asked.verdict;
  }

  /** Throws the recorded error, the same way on the first run and on replay. */
  static RuntimeException failed(Engine engine, byte @Nullable [] data) {
    Failure failure = Failure.read(engine.payloads, data);
    return Failure.raise(failure.exception(engine.declaredErrors), failure);
  }

  static @Nullable Object[] joined(@Nullable Object[] first, @Nullable Object... second) {
    @Nullable Object[] out = Arrays.copyOf(first, first.length + second.length);
    System.arraycopy(second, 0, out, first.length, second.length);
    return out;
  }
}
