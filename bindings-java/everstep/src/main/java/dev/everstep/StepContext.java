package dev.everstep;

import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;

/** One attempt of a step. */
public interface StepContext {
  /**
   * The key to pass to an outside service: the same in every attempt of this step, whatever dies in
   * between.
   *
   * @return 36 ASCII characters
   */
  String idempotencyKey();

  /**
   * Which attempt this is.
   *
   * @return 1 or more
   */
  int attempt();

  /**
   * The step's name.
   *
   * @return the name
   */
  String name();

  /**
   * The key of the run this step belongs to.
   *
   * @return a uuid
   */
  String runKey();

  /**
   * The id the run was started with.
   *
   * @return the id, or null
   */
  @Nullable String runId();

  /**
   * Which attempt of the whole run this is.
   *
   * @return 1 or more
   */
  int runAttempt();

  /**
   * The attributes the run was started with.
   *
   * @return texts, numbers and booleans by name
   */
  Map<String, Object> attributes();

  /**
   * The W3C trace context the run was started with.
   *
   * @return the header {@code traceparent}, or null
   */
  @Nullable String traceParent();

  /**
   * For the step's own lines: they carry {@code everstep.run}, {@code everstep.workflow}, {@code
   * everstep.step} and {@code everstep.attempt} in the MDC.
   *
   * @return the logger {@code everstep.workflow}
   */
  Logger log();

  /**
   * Whether a cancel or the step's timeout has come. The thread is interrupted then, too.
   *
   * @return true once it has
   */
  boolean cancelRequested();

  /**
   * For loops: ends the step when a cancel or its timeout has come.
   *
   * @throws Cancelled when it has
   */
  void throwIfCancelled();
}
