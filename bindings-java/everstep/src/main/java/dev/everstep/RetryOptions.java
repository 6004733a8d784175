package dev.everstep;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Attempts of a step or of a whole run. Nothing said: one attempt. Once anything is said, what is
 * left out is 5 attempts, 1 s, factor 2, at most 1 min, with full jitter.
 *
 * @param <S> the options this is part of
 */
public abstract sealed class RetryOptions<S extends RetryOptions<S>>
    permits ErrorPolicy, RunOptions {
  private @Nullable Integer maxAttempts;
  private @Nullable Duration initialInterval;
  private @Nullable Double factor;
  private @Nullable Duration maxInterval;
  private @Nullable Boolean jitter;
  @Nullable Duration timeout;
  boolean atMostOnce;

  RetryOptions() {}

  abstract S self();

  /**
   * How many attempts at most.
   *
   * @param attempts 1 or more
   * @return this
   */
  public S maxAttempts(int attempts) {
    if (attempts < 1) {
      throw Options.invalid("maxAttempts is " + attempts + "; give 1 or more");
    }
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
    initialInterval = Options.notNegative(interval, "initialInterval");
    return self();
  }

  /**
   * By what the wait grows.
   *
   * @param growth 1 or more, default 2
   * @return this
   */
  public S backoffFactor(double growth) {
    if (!(growth >= 1)) {
      throw Options.invalid("backoffFactor is " + growth + "; give 1 or more");
    }
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
    maxInterval = Options.notNegative(interval, "maxInterval");
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

  /** What {@code other} says goes before what was said here. */
  final void layAttempts(RetryOptions<?> other) {
    maxAttempts = other.maxAttempts == null ? maxAttempts : other.maxAttempts;
    initialInterval = other.initialInterval == null ? initialInterval : other.initialInterval;
    factor = other.factor == null ? factor : other.factor;
    maxInterval = other.maxInterval == null ? maxInterval : other.maxInterval;
    jitter = other.jitter == null ? jitter : other.jitter;
    timeout = other.timeout == null ? timeout : other.timeout;
    atMostOnce |= other.atMostOnce;
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
