package dev.everstep;

import java.time.Duration;

/** How a step is declared. */
public final class StepOptions extends ErrorPolicy<StepOptions> {
  StepOptions() {}

  @Override
  StepOptions self() {
    return this;
  }

  /**
   * How long an attempt may take; then its thread is interrupted and the attempt fails with {@code
   * step_timeout}.
   *
   * @param limit default, and zero: none
   * @return this
   */
  public StepOptions timeout(Duration limit) {
    timeout = Options.notNegative(limit, "timeout");
    return this;
  }

  /**
   * Records the attempt before the step runs: after a crash the workflow gets {@link
   * StepInterrupted} and decides. A transaction refuses it: its rows and its record commit
   * together, which is more.
   *
   * @return this
   */
  public StepOptions atMostOnce() {
    atMostOnce = true;
    return this;
  }
}
