package dev.everstep;

import java.util.concurrent.CancellationException;

/**
 * The run was asked to cancel, or a running step was: raised at the next call of the workflow, and
 * by {@link StepContext#throwIfCancelled()} in a step. From then on only calls inside {@link
 * WorkflowContext#shielded} go on.
 */
public final class Cancelled extends CancellationException {
  private static final long serialVersionUID = 1L;

  /** Who asked. */
  private final String by;

  /** The reason. */
  private final String why;

  Cancelled(String by, String why) {
    super(by.isEmpty() ? "cancelled" : "cancelled by " + by + (why.isEmpty() ? "" : ": " + why));
    this.by = by;
    this.why = why;
  }

  /**
   * Who asked.
   *
   * @return the name, or an empty text
   */
  public String by() {
    return by;
  }

  /**
   * Why.
   *
   * @return the reason, or an empty text
   */
  public String why() {
    return why;
  }
}
