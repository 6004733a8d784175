package dev.everstep;

import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** One execution of a function, on a thread of its own: decode, run, say how it ended. */
final class Runner implements Runnable {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  private final Execution execution;
  private final Registered function;
  private final byte @Nullable [] input;

  Runner(Execution execution, Registered function, byte @Nullable [] input) {
    this.execution = execution;
    this.function = function;
    this.input = input;
  }

  @Override
  public void run() {
    Client client = execution.client;
    WorkflowContext ctx = new WorkflowContext(execution, "", 0);
    boolean ended = false;
    try {
      ctx.open();
      @Nullable Object[] end = function.kind.equals(Registered.STEP) ? job(ctx) : workflow(ctx);
      if (end != null) {
        client.submitQuietly(Ops.FINISH_RUN, end);
      }
      ended = true;
    } catch (ExecutionStopped stop) {
      ended = true;
    } catch (EverstepException error) {
      // The engine was closed under it; another process, or the next one, goes on.
      ended = error.code() == ErrorCode.CLOSED;
      if (!ended) {
        LOG.error("run {} of {} could not be ended here", execution.run, execution.name, error);
      }
    } catch (Throwable error) {
      LOG.error("run {} of {} could not be ended here", execution.run, execution.name, error);
    } finally {
      ctx.close();
      engineForgets();
      if (!ended) {
        giveBack();
      }
    }
  }

  private void engineForgets() {
    execution.engine.executions.remove(execution.id);
  }

  private void giveBack() {
    try {
      execution.client.call(Ops.ABANDON, execution.id, "internal");
    } catch (EverstepException error) {
      LOG.debug("run {} was not given back: {}", execution.run, error.getMessage());
    }
  }

  /** The arguments of {@code finish_run}; null when this execution has ended and nothing counts. */
  private @Nullable Object @Nullable [] workflow(WorkflowContext ctx) {
    try {
      Object given = execution.engine.payloads.decode(input, function.input);
      Object value = Engine.bodyOf(function).run(ctx, NO_STEP, given);
      if (execution.stopped != null) {
        execution.warnAfterStop("the value it returned", null);
        return null;
      }
      return finished(StepCalls.output(function, value, execution));
    } catch (ExecutionStopped stop) {
      return null;
    } catch (Throwable error) {
      if (execution.stopped != null) {
        execution.warnAfterStop("a " + Failure.typeOf(error), error);
        return null;
      }
      if (isClosed(error)) {
        return null;
      }
      // A cancel that nobody asked the run for is a failure of the program's own.
      boolean cancelled = error instanceof Cancelled && execution.isCancelled();
      boolean isFinal =
          error instanceof Cancelled
              || (error instanceof EverstepException known
                  && known.code() == ErrorCode.PAYLOAD_INVALID);
      return broken(StepCalls.raised(function, error, execution, isFinal), cancelled);
    }
  }

  private boolean isClosed(Throwable error) {
    return error instanceof EverstepException known
        && known.code() == ErrorCode.CLOSED
        && execution.engine.isClosed();
  }

  /** A step that runs by itself. */
  private @Nullable Object @Nullable [] job(WorkflowContext ctx) {
    RunningStep running =
        new RunningStep(execution, function.name, execution.attempt, execution.idempotencyKey, 0);
    execution.running.enter(RunningSteps.JOB, running);
    ctx.enter(running);
    StepCalls.Outcome outcome;
    try {
      Object given = execution.engine.payloads.decode(input, function.input);
      outcome = StepCalls.body(ctx, function, running, given);
    } catch (ExecutionStopped stop) {
      throw stop;
    } catch (Throwable error) {
      // Reading the input runs code of the user's, which throws what it likes, in every attempt.
      outcome = StepCalls.raised(function, error, execution, true);
    } finally {
      ctx.leave();
    }
    if (execution.stopped != null) {
      return null;
    }
    if (outcome.stopped()) {
      return broken(StepCalls.raised(function, execution.cancelled(), execution, true), true);
    }
    return outcome.failed() ? broken(outcome, false) : finished(outcome.output());
  }

  private @Nullable Object[] finished(byte[] output) {
    return new Object[] {execution.id, false, output};
  }

  private @Nullable Object[] broken(StepCalls.Outcome outcome, boolean cancelled) {
    return new Object[] {
      execution.id,
      true,
      outcome.output(),
      outcome.type(),
      outcome.message(),
      outcome.retryable(),
      cancelled
    };
  }

  /** What a workflow's body gets where a step's gets its attempt; it has no use for it. */
  private static final StepContext NO_STEP =
      new StepContext() {
        private EverstepException outside() {
          return new EverstepException(ErrorCode.OUTSIDE_STEP, "this exists only inside a step");
        }

        @Override
        public String idempotencyKey() {
          throw outside();
        }

        @Override
        public int attempt() {
          throw outside();
        }

        @Override
        public String name() {
          throw outside();
        }

        @Override
        public String runKey() {
          throw outside();
        }

        @Override
        public @Nullable String runId() {
          throw outside();
        }

        @Override
        public int runAttempt() {
          throw outside();
        }

        @Override
        public Map<String, Object> attributes() {
          throw outside();
        }

        @Override
        public @Nullable String traceParent() {
          throw outside();
        }

        @Override
        public Logger log() {
          throw outside();
        }

        @Override
        public boolean cancelRequested() {
          throw outside();
        }

        @Override
        public void throwIfCancelled() {
          throw outside();
        }
      };
}
