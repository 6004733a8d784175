package dev.everstep;

/** The run is not finished yet; the text says what it waits for. */
public final class ResultTimeout extends EverstepException {
  private static final long serialVersionUID = 1L;

  ResultTimeout(String message, About about) {
    super(ErrorCode.RESULT_TIMEOUT, message, about);
  }
}
