package dev.everstep;

import java.time.Duration;

/** How a step is declared. */
public final class StepOptions extends RetryOptions<StepOptions> {
  StepOptions() {}

  @Override
  StepOptions self() {
    return this;
  }

  /**
   * How long an attempt may take; then its thread is interrupted and the attempt fails with {@code
   * step_timeout}.
   *
   * @param limit default none
   * @return this
   */
  public StepOptions timeout(Duration limit) {
    timeout = Options.required(limit, "timeout");
    return this;
  }

  /**
   * Records the attempt before the step runs: after a crash the workflow gets {@link
   * StepInterrupted} and decides.
   *
   * @return this
   */
  public StepOptions atMostOnce() {
    atMostOnce = true;
    return this;
  }
}
