package dev.everstep;

/** The run was cancelled. */
public final class RunCancelled extends EverstepException {
  private static final long serialVersionUID = 1L;

  RunCancelled(String message, About about) {
    super(ErrorCode.RUN_CANCELLED, message, about);
  }
}
