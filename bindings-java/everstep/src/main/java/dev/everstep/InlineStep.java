package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * A step written where it is called.
 *
 * @param <O> type of the output
 */
@FunctionalInterface
public interface InlineStep<O extends @Nullable Object> {
  /**
   * Runs it.
   *
   * @param step the attempt: its idempotency key, whether a cancel came
   * @return the step's output
   * @throws Exception what it fails with
   */
  O run(StepContext step) throws Exception;
}
