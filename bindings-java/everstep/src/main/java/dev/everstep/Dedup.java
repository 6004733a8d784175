package dev.everstep;

import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** At most one run a key. */
public final class Dedup {
  final String key;
  final String scope;
  final @Nullable Long ttlMillis;
  final @Nullable String policy;

  private Dedup(String key, String scope, @Nullable Long ttlMillis, @Nullable String policy) {
    this.key = Options.required(key, "the dedup key");
    this.scope = scope;
    this.ttlMillis = ttlMillis;
    this.policy = policy;
  }

  /**
   * Until the run has ended.
   *
   * @param key the key
   * @return the rule
   */
  public static Dedup untilDone(String key) {
    return new Dedup(key, "until_done", null, null);
  }

  /**
   * While the run has not begun.
   *
   * @param key the key
   * @return the rule
   */
  public static Dedup whileQueued(String key) {
    return new Dedup(key, "queued", null, null);
  }

  /**
   * So long from the start.
   *
   * @param key the key
   * @param time how long
   * @return the rule
   */
  public static Dedup within(String key, Duration time) {
    return new Dedup(key, "ttl", Times.milliseconds(Options.notNegative(time, "within")), null);
  }

  /**
   * A second start is an error {@code run_deduplicated} instead of attaching to the first.
   *
   * @return the rule
   */
  public Dedup reject() {
    return new Dedup(key, scope, ttlMillis, "reject");
  }

  /**
   * A second start takes the place of the first while that has not begun; then it is an error
   * {@code run_deduplicated}.
   *
   * @return the rule
   */
  public Dedup replace() {
    return new Dedup(key, scope, ttlMillis, "replace");
  }
}
