package dev.everstep;

import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** How one call of a step is made. What is not said is as the step was declared. */
public final class CallOptions extends ErrorPolicy<CallOptions> {
  @Nullable String key;

  CallOptions() {}

  @Override
  CallOptions self() {
    return this;
  }

  /**
   * Tells this call from others of the same step in its branch.
   *
   * @param text the key
   * @return this
   */
  public CallOptions key(String text) {
    key = Options.required(text, "key");
    return this;
  }

  /**
   * How long an attempt of this call may take; then its thread is interrupted and the attempt fails
   * with {@code step_timeout}.
   *
   * @param limit the limit; zero: none, whatever was declared
   * @return this
   */
  public CallOptions timeout(Duration limit) {
    timeout = Options.notNegative(limit, "timeout");
    return this;
  }
}
