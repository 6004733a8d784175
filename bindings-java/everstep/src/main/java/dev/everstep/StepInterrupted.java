package dev.everstep;

/** An at-most-once step was cut short by a crash: it may or may not have had its effect. */
public final class StepInterrupted extends StepFailed {
  private static final long serialVersionUID = 1L;

  StepInterrupted(String message, About about) {
    super(ErrorCode.STEP_INTERRUPTED, message, about);
  }
}
