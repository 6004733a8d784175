package dev.everstep;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/** What a control call did. */
public enum Outcome {
  /** The run had not started; it has ended. */
  CANCELLED,
  /** The run sees the cancel at its next call, or where it waits, and cleans up. */
  REQUESTED,
  /** The run had ended before. */
  ALREADY_FINISHED,
  /** The run goes on. */
  RESUMED,
  /** The run is in no state for it. */
  NOT_POSSIBLE;

  /**
   * The outcome as the other languages have it.
   *
   * @return in lower case
   */
  @JsonValue
  public String text() {
    return name().toLowerCase(Locale.ROOT);
  }

  static Outcome of(String text) {
    for (Outcome outcome : values()) {
      if (outcome.text().equals(text)) {
        return outcome;
      }
    }
    throw new EverstepException(
        ErrorCode.NEWER_ENGINE_NEEDED, "an outcome this library does not know: " + text);
  }

  @Override
  public String toString() {
    return text();
  }
}
