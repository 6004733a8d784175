package dev.everstep;

/** The run failed; the cause is the run's own error, rebuilt where its type is declared. */
public final class RunFailed extends EverstepException {
  private static final long serialVersionUID = 1L;

  RunFailed(String message, About about) {
    super(ErrorCode.RUN_FAILED, message, about);
  }
}
