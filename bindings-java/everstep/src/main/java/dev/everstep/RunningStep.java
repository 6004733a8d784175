package dev.everstep;

import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;

/** A step's function while it runs: what a signal reaches. */
final class RunningStep implements StepContext {
  private final Execution execution;
  private final String name;
  private final int attempt;
  private final String key;
  private final Thread thread = Thread.currentThread();
  private @Nullable String signal;
  private boolean timedOut;
  private boolean ended;

  /** Clean-up: a cancel of the run lets it end. */
  final boolean shielded;

  RunningStep(Execution execution, String name, int attempt, String key, int flags) {
    this.shielded = (flags & Ops.FLAG_SHIELDED) != 0;
    this.execution = execution;
    this.name = name;
    this.attempt = attempt;
    this.key = key;
  }

  @Override
  public String name() {
    return name;
  }

  /** From another thread: cancel, timeout, branch or stop. */
  synchronized void raise(String what) {
    timedOut |= what.equals("timeout");
    if (signal == null && !ended) {
      signal = what;
      thread.interrupt();
    }
  }

  /** No signal interrupts this thread from here on. Returns the one that has come, if any. */
  synchronized @Nullable String end() {
    if (!ended) {
      ended = true;
      if (signal != null) {
        // The interrupt was ours: what comes after on this thread is not to see it.
        Thread.interrupted();
      }
    }
    return signal;
  }

  /** Whether the attempt's time was over, also when that came after {@link #end}. */
  synchronized boolean isTimedOut() {
    return timedOut;
  }

  synchronized @Nullable String signal() {
    return signal;
  }

  @Override
  public String idempotencyKey() {
    return key;
  }

  @Override
  public int attempt() {
    return attempt;
  }

  @Override
  public String runKey() {
    return execution.run;
  }

  @Override
  public @Nullable String runId() {
    return execution.runId;
  }

  @Override
  public int runAttempt() {
    return execution.attempt;
  }

  @Override
  public Map<String, Object> attributes() {
    return RunInfo.attributes(execution.attributes);
  }

  @Override
  public @Nullable String traceParent() {
    return execution.traceParent;
  }

  @Override
  public Logger log() {
    return ReplayLogger.of(execution, () -> this);
  }

  @Override
  public boolean cancelRequested() {
    return signal() != null;
  }

  @Override
  public void throwIfCancelled() {
    if (signal() != null) {
      throw execution.cancelled();
    }
  }
}
