package dev.everstep;

import org.jspecify.annotations.Nullable;

/** How one call of a step is made. */
public final class CallOptions {
  @Nullable String key;

  CallOptions() {}

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
}
