package dev.everstep;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Attempts, and which errors are worth another one. Only where the code is at hand: a class or a
 * predicate cannot travel with a start ({@link RunOptions}).
 *
 * @param <S> the options this is part of
 */
public abstract sealed class ErrorPolicy<S extends ErrorPolicy<S>> extends RetryOptions<S>
    permits StepOptions, CallOptions, WorkflowOptions {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  private final List<Class<? extends Throwable>> nonRetryable = new ArrayList<>();
  private @Nullable Predicate<? super Throwable> retryIf;

  ErrorPolicy() {}

  /**
   * Errors of this type are final.
   *
   * @param type a type of errors
   * @return this
   */
  public S nonRetryable(Class<? extends Throwable> type) {
    nonRetryable.add(Options.required(type, "nonRetryable"));
    return self();
  }

  /**
   * Asked for every other error.
   *
   * @param predicate false: the error is final
   * @return this
   */
  public S retryIf(Predicate<? super Throwable> predicate) {
    retryIf = Options.required(predicate, "retryIf");
    return self();
  }

  /** What {@code other} says goes before what was said here; its final errors come on top. */
  void lay(ErrorPolicy<?> other) {
    layAttempts(other);
    nonRetryable.addAll(other.nonRetryable);
    retryIf = other.retryIf == null ? retryIf : other.retryIf;
  }

  boolean retryable(Throwable error) {
    for (Class<? extends Throwable> type : nonRetryable) {
      if (type.isInstance(error)) {
        return false;
      }
    }
    if (retryIf == null) {
      return true;
    }
    try {
      return retryIf.test(error);
    } catch (RuntimeException thrown) {
      // The step's own error is what has to be recorded.
      LOG.error("retryIf failed; the error it was asked about is final", thrown);
      return false;
    }
  }
}
