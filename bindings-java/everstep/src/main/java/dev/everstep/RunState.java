package dev.everstep;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/**
 * Where a run is. The last three never change except by {@code retry}, {@code resume} or {@code
 * rewind}.
 */
public enum RunState {
  /** It waits for a worker. */
  READY,
  /** A worker executes it. */
  RUNNING,
  /** It waits for a time, a message, an event or another run. */
  WAITING,
  /** It was asked to cancel and cleans up. */
  CANCELLING,
  /** It waits for a fix or a resume. */
  BLOCKED,
  /** It has returned. */
  SUCCEEDED,
  /** It has failed. */
  FAILED,
  /** It was cancelled. */
  CANCELLED;

  /**
   * The state as rows and the other languages have it.
   *
   * @return in lower case
   */
  @JsonValue
  public String text() {
    return name().toLowerCase(Locale.ROOT);
  }

  /**
   * The state of a text.
   *
   * @param text in lower case
   * @return the state
   */
  public static RunState of(String text) {
    for (RunState state : values()) {
      if (state.text().equals(text)) {
        return state;
      }
    }
    throw Options.invalid("there is no state " + text + " of runs; see RunState");
  }

  @Override
  public String toString() {
    return text();
  }
}
