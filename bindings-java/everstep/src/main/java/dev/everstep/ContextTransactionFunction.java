package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * What a transactional step does, told about its attempt. Committing is not its business.
 *
 * @param <T> what gives it the transaction
 * @param <I> type of the input
 * @param <O> type of the output
 */
@FunctionalInterface
public interface ContextTransactionFunction<
    T, I extends @Nullable Object, O extends @Nullable Object> {
  /**
   * Runs it.
   *
   * @param step the attempt: its idempotency key, whether a cancel came
   * @param transaction the open transaction
   * @param input the step's input
   * @return the step's output
   * @throws Exception what it fails with
   */
  O run(StepContext step, T transaction, I input) throws Exception;
}
