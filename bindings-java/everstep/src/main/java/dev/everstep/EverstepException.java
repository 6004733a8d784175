package dev.everstep;

import org.jspecify.annotations.Nullable;

/** Base of all errors of Everstep. {@link #code()} is stable; the text is not. */
public class EverstepException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** The stable code. */
  private final ErrorCode code;

  /** The declared name, else the code as text. */
  private final String errorCode;

  /** Type of the original error. */
  private final @Nullable String errorType;

  private final transient @Nullable Object details;

  /** Stack of the original error. */
  private final @Nullable String stack;

  /** Key of the run this is about. */
  private @Nullable String run;

  /**
   * An error of a code and a text.
   *
   * @param code the stable code
   * @param message what happened and what to do
   */
  public EverstepException(ErrorCode code, String message) {
    this(code, message, About.NOTHING);
  }

  EverstepException(ErrorCode code, String message, About about) {
    super(message);
    this.code = code;
    this.errorCode = about.errorCode == null ? code.text() : about.errorCode;
    this.errorType = about.errorType;
    this.details = about.details;
    this.stack = about.stack;
    this.run = about.run;
  }

  /** What is known of the original error. */
  record About(
      @Nullable String errorCode,
      @Nullable String errorType,
      @Nullable Object details,
      @Nullable String stack,
      @Nullable String run) {
    static final About NOTHING = new About(null, null, null, null, null);

    static About run(String run) {
      return new About(null, null, null, null, run);
    }
  }

  /** The exception of a code: a class of its own where callers catch it by class. */
  static EverstepException of(ErrorCode code, String message, About about) {
    return switch (code) {
      case STEP_FAILED, TRANSACTION_FAILED, TRANSACTION_TOO_LONG, OTHER_DATABASE ->
          new StepFailed(code, message, about);
      case STEP_TIMEOUT -> new StepTimeout(message, about);
      case STEP_INTERRUPTED -> new StepInterrupted(message, about);
      case RUN_FAILED -> new RunFailed(message, about);
      case RUN_CANCELLED -> new RunCancelled(message, about);
      case RUN_BLOCKED -> new RunBlocked(message, about);
      case RESULT_TIMEOUT -> new ResultTimeout(message, about);
      default -> new EverstepException(code, message, about);
    };
  }

  /** An answer {@code [code, message]} of the engine. */
  static EverstepException ofAnswer(String code, String message) {
    ErrorCode known = ErrorCode.of(code);
    return known == null
        ? new EverstepException(ErrorCode.INTERNAL, code + ": " + message)
        : of(known, message, About.NOTHING);
  }

  /** Names the run this is about, where the engine's answer does not. */
  final void about(String key) {
    run = run == null ? key : run;
  }

  /**
   * The stable code.
   *
   * @return the code
   */
  public final ErrorCode code() {
    return code;
  }

  /**
   * The code as text: the declared name of an error this program does not declare, else the text of
   * {@link #code()}.
   *
   * @return the text
   */
  public final String errorCode() {
    return errorCode;
  }

  /**
   * The type of the original error in the language that raised it.
   *
   * @return the type's name, or null
   */
  public final @Nullable String errorType() {
    return errorType;
  }

  /**
   * The fields of a declared error, as plain values.
   *
   * @return the fields, or null
   */
  public final @Nullable Object details() {
    return details;
  }

  /**
   * The stack of the original error, as text.
   *
   * @return the stack, or null
   */
  public final @Nullable String stack() {
    return stack;
  }

  /**
   * The key of the run this is about.
   *
   * @return the key, or null
   */
  public final @Nullable String run() {
    return run;
  }

  /** The code belongs into every log line; the message alone is what {@code result()} compares. */
  @Override
  @SuppressWarnings("OverrideThrowableToString")
  public String toString() {
    return getClass().getSimpleName() + " [" + errorCode + "] " + getMessage();
  }
}
