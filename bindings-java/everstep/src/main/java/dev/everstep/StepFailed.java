package dev.everstep;

/**
 * A step failed. Raised the same way on the first run and on replay, rebuilt from what was
 * recorded. A declared checked exception is its cause, unless the call names the class. What the
 * database refused of a transactional step is one, too ({@link ErrorCode#TRANSACTION_FAILED}); a
 * result that cannot be written is {@link ErrorCode#PAYLOAD_INVALID}.
 */
public class StepFailed extends EverstepException {
  private static final long serialVersionUID = 1L;

  StepFailed(ErrorCode code, String message, About about) {
    super(code, message, about);
  }
}
