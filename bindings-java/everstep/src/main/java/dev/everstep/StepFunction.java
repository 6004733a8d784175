package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * What a step does.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
@FunctionalInterface
public interface StepFunction<I extends @Nullable Object, O extends @Nullable Object> {
  /**
   * Runs it.
   *
   * @param input the step's input
   * @return the step's output
   * @throws Exception what it fails with
   */
  O run(I input) throws Exception;
}
