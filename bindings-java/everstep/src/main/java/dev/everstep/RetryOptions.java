package dev.everstep;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Attempts of a step or of a whole run. Nothing said: one attempt. Once anything is said, what is
 * left out is 5 attempts, 1 s, factor 2, at most 1 min, with full jitter.
 *
 * @param <S> the options this is part of
 */
public abstract sealed class RetryOptions<S extends RetryOptions<S>>
    permits StepOptions, WorkflowOptions, RunOptions {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  private @Nullable Integer maxAttempts;
  private @Nullable Duration initialInterval;
  private @Nullable Double factor;
  private @Nullable Duration maxInterval;
  private @Nullable Boolean jitter;
  @Nullable Duration timeout;
  boolean atMostOnce;
  private final List<Class<? extends Throwable>> nonRetryable = new ArrayList<>();
  private @Nullable Predicate<? super Throwable> retryIf;

  RetryOptions() {}

  abstract S self();

  /**
   * How many attempts at most.
   *
   * @param attempts 1 or more
   * @return this
   */
  public S maxAttempts(int attempts) {
    maxAttempts = attempts;
    return self();
  }

  /**
   * The wait before the second attempt.
   *
   * @param interval default 1 s
   * @return this
   */
  public S initialInterval(Duration interval) {
    initialInterval = Options.required(interval, "initialInterval");
    return self();
  }

  /**
   * By what the wait grows.
   *
   * @param growth default 2
   * @return this
   */
  public S backoffFactor(double growth) {
    factor = growth;
    return self();
  }

  /**
   * The longest wait between two attempts.
   *
   * @param interval default 1 min
   * @return this
   */
  public S maxInterval(Duration interval) {
    maxInterval = Options.required(interval, "maxInterval");
    return self();
  }

  /**
   * Whether a wait is drawn at random from zero to its length.
   *
   * @param on default true
   * @return this
   */
  public S jitter(boolean on) {
    jitter = on;
    return self();
  }

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

  /** RETRY of {@code ops.toml}. */
  @Nullable List<@Nullable Object> policy() {
    return Options.record(
        maxAttempts == null ? null : (Object) maxAttempts,
        Options.milliseconds(initialInterval),
        factor,
        Options.milliseconds(maxInterval),
        jitter,
        Options.milliseconds(timeout),
        atMostOnce ? true : null);
  }

  /** The same by field name. */
  Map<String, @Nullable Object> policyByName() {
    Map<String, @Nullable Object> out = new LinkedHashMap<>();
    List<@Nullable Object> policy = policy();
    for (int index = 0; policy != null && index < policy.size(); index++) {
      if (policy.get(index) != null) {
        out.put(Ops.RETRY_FIELDS.get(index), policy.get(index));
      }
    }
    return out;
  }
}
