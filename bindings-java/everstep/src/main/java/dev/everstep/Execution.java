package dev.everstep;

import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** One execution of one run in this process. {@code id} is what the engine calls it. */
final class Execution {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  final Engine engine;
  final Client client;
  final long id;
  final String run;
  final String name;
  final int attempt;
  final @Nullable String runId;
  final String idempotencyKey;
  final @Nullable String attributes;
  final @Nullable String traceParent;
  final RunningSteps running = new RunningSteps();
  volatile boolean replaying;

  /** Why it has ended, once it has: nothing done from then on is recorded. */
  volatile @Nullable String stopped;

  /** Where the user's code was told. */
  volatile @Nullable String stoppedAt;

  private volatile @Nullable Cancelled cancelled;
  private boolean warned;

  Execution(Engine engine, Client client, long id, Frame.Values frame) {
    this.engine = engine;
    this.client = client;
    this.id = id;
    this.run = frame.text(0);
    this.name = frame.text(1);
    this.attempt = (int) frame.number(3);
    this.replaying = frame.flag(4);
    this.runId = frame.optionalText(5);
    this.attributes = frame.optionalText(7);
    this.traceParent = frame.optionalText(8);
    this.idempotencyKey = frame.text(9);
  }

  void stop(String why) {
    if (stopped == null) {
      stopped = why;
      running.stop();
    }
  }

  void signal(Frame.Values frame) {
    switch (frame.text(0)) {
      case "cancel" -> {
        cancelled = new Cancelled(frame.text(1), frame.text(2));
        running.cancel();
      }
      case "timeout" -> running.timeout(new RunningSteps.Place(frame.text(1), frame.number(2)));
      default -> {}
    }
  }

  boolean isCancelled() {
    return cancelled != null;
  }

  void cancel(String by, String why) {
    cancelled = new Cancelled(by, why);
  }

  Cancelled cancelled() {
    Cancelled known = cancelled;
    return known == null ? new Cancelled("", "") : new Cancelled(known.by(), known.why());
  }

  /** A value or an error of a stopped execution counts for nothing; says so once, with the line. */
  synchronized void warnAfterStop(String what, @Nullable Throwable error) {
    if (warned) {
      return;
    }
    warned = true;
    String line = error == null ? stoppedAt : Location.of(error);
    LOG.warn(
        "workflow {}, run {}: {}{} after this execution had ended ({}) is ignored; let"
            + " ExecutionStopped pass through your catch and finally blocks",
        name,
        run,
        what,
        line == null ? "" : " at " + line,
        stopped);
  }
}
