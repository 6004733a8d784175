package dev.everstep;

/** A step took longer than its timeout. */
public final class StepTimeout extends StepFailed {
  private static final long serialVersionUID = 1L;

  StepTimeout(String message, About about) {
    super(ErrorCode.STEP_TIMEOUT, message, about);
  }
}
