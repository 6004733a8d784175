package dev.everstep;

import java.util.Map;
import org.jspecify.annotations.Nullable;

/** What workflow code can ask about its own run. */
abstract sealed class RunFacts permits WorkflowContext {
  final Execution execution;

  RunFacts(Execution execution) {
    this.execution = execution;
  }

  /**
   * The run's key.
   *
   * @return a uuid
   */
  public final String runKey() {
    return execution.run;
  }

  /**
   * The id the run was started with.
   *
   * @return the id, or null
   */
  public final @Nullable String runId() {
    return execution.runId;
  }

  /**
   * Which attempt of the whole run this is.
   *
   * @return 1 or more
   */
  public final int attempt() {
    return execution.attempt;
  }

  /**
   * The attributes the run was started with.
   *
   * @return texts, numbers and booleans by name
   */
  public final Map<String, Object> attributes() {
    return RunInfo.attributes(execution.attributes);
  }

  /**
   * The W3C trace context the run was started with.
   *
   * @return the header {@code traceparent}, or null
   */
  public final @Nullable String traceParent() {
    return execution.traceParent;
  }

  /**
   * Whether recorded calls are being handed back.
   *
   * @return true while they are
   */
  public final boolean replaying() {
    return execution.replaying;
  }
}
