package dev.everstep;

/** The run is blocked and waits for a fix or a resume. */
public final class RunBlocked extends EverstepException {
  private static final long serialVersionUID = 1L;

  RunBlocked(String message, About about) {
    super(ErrorCode.RUN_BLOCKED, message, about);
  }
}
