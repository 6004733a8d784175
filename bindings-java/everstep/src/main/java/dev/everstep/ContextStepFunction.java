package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * What a step does, told about its attempt.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
@FunctionalInterface
public interface ContextStepFunction<I extends @Nullable Object, O extends @Nullable Object> {
  /**
   * Runs it.
   *
   * @param step the attempt: its idempotency key, whether a cancel came
   * @param input the step's input
   * @return the step's output
   * @throws Exception what it fails with
   */
  O run(StepContext step, I input) throws Exception;
}
