package dev.everstep;

import dev.everstep.EverstepException.About;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionException;
import org.jspecify.annotations.Nullable;

/**
 * One error document ({@code core/docs/payload.md}, "Errors"). The caller sees the error rebuilt
 * from the document, the first time too.
 */
record Failure(
    String type,
    @Nullable String code,
    String message,
    @Nullable String stack,
    @Nullable Failure cause,
    @Nullable Object details,
    boolean retryable) {
  private static final int MAX_MESSAGE = 8 * 1024;
  private static final int MAX_STACK = 16 * 1024;
  private static final int MAX_CAUSES = 8;

  static Failure of(Throwable error, DeclaredErrors declared, boolean retryable) {
    return of(error, declared, retryable, 0);
  }

  private static Failure of(
      Throwable given, DeclaredErrors declared, boolean retryable, int depth) {
    // What a branch's checked exception travels in.
    Throwable inner = given instanceof CompletionException ? causeIn(given) : null;
    Throwable error = inner == null ? given : inner;
    DeclaredErrors.Declared known = declared.of(error);
    if (known == null && error instanceof EverstepException ours) {
      return of(ours, declared, retryable, depth);
    }
    return new Failure(
        typeOf(error),
        known == null ? null : known.code,
        clipped(messageOf(error)),
        stackOf(error),
        causeOf(error, declared, depth),
        known == null ? null : known.details(error),
        retryable);
  }

  /** An error of the engine's, or one of the program's that came back from a record. */
  private static Failure of(
      EverstepException error, DeclaredErrors declared, boolean retryable, int depth) {
    String stack = error.stack() == null ? stackOf(error) : error.stack();
    Failure cause = causeOf(error, declared, depth);
    // A declared checked exception is the cause of its StepFailed: one error, not two.
    if (cause != null && error.errorCode().equals(cause.code())) {
      cause = cause.cause();
    }
    return new Failure(
        error.errorType() == null ? typeOf(error) : error.errorType(),
        error.errorCode(),
        clipped(String.valueOf(error.getMessage())),
        stack,
        cause,
        error.details(),
        retryable);
  }

  private static @Nullable Failure causeOf(Throwable error, DeclaredErrors declared, int depth) {
    Throwable cause = causeIn(error);
    return cause == null || depth >= MAX_CAUSES ? null : of(cause, declared, true, depth + 1);
  }

  static Failure read(Payloads payloads, byte @Nullable [] data) {
    return from(data == null ? Map.of() : payloads.decode(data, Object.class), 0);
  }

  private static Failure from(@Nullable Object value, int depth) {
    if (!(value instanceof Map<?, ?> given)) {
      return new Failure("Error", null, String.valueOf(value), null, null, null, true);
    }
    Object cause = given.get("cause");
    return new Failure(
        text(given.get("type"), "Error"),
        (String) given.get("code"),
        text(given.get("message"), ""),
        (String) given.get("stack"),
        cause == null || depth >= MAX_CAUSES ? null : from(cause, depth + 1),
        given.get("details"),
        !Boolean.FALSE.equals(given.get("retryable")));
  }

  private static String text(@Nullable Object value, String otherwise) {
    return value instanceof String text && !text.isEmpty() ? text : otherwise;
  }

  Map<String, @Nullable Object> document() {
    Map<String, @Nullable Object> out = new LinkedHashMap<>();
    out.put("type", type);
    out.put("code", code);
    out.put("message", message);
    out.put("stack", stack);
    out.put("cause", cause == null ? null : cause.document());
    out.put("details", details);
    out.put("retryable", retryable);
    return out;
  }

  byte[] encode(Payloads payloads) {
    try {
      return payloads.encode(document());
    } catch (EverstepException error) {
      // The details cannot be stored; the error itself must be, or the failure would be lost.
      String text = clipped(message + " (" + error.getMessage() + ")");
      return payloads.encode(new Failure(type, code, text, null, null, null, retryable).document());
    }
  }

  /**
   * The error a workflow sees for a failed step: the declared exception, or one of the engine's.
   */
  Throwable exception(DeclaredErrors declared) {
    DeclaredErrors.Declared known = declared.named(code);
    Throwable out = null;
    String text = message;
    if (known != null) {
      try {
        out = known.rebuild(message, details);
      } catch (EverstepException error) {
        text =
            message
                + " (the declared "
                + known.type.getName()
                + " could not be rebuilt: "
                + error.getMessage()
                + ")";
      }
    }
    if (out == null) {
      ErrorCode engine = ErrorCode.of(code);
      About about = new About(code, type, details, stack, null);
      out =
          engine == null
              ? new StepFailed(ErrorCode.STEP_FAILED, text, about)
              : EverstepException.of(engine, text, about);
    }
    if (cause != null && causeIn(out) == null) {
      try {
        out.initCause(cause.exception(declared));
      } catch (RuntimeException fixed) {
        // Its constructor has set the cause, to null: the type says it has none.
        out.addSuppressed(cause.exception(declared));
      }
    }
    return out;
  }

  /**
   * Throws {@code error} from a method without a throws clause: a checked one as the cause of a
   * StepFailed.
   */
  static RuntimeException raise(Throwable error, Failure failure) {
    unchecked(error);
    StepFailed wrapper =
        new StepFailed(
            ErrorCode.STEP_FAILED,
            failure.message,
            new About(failure.code, failure.type, failure.details, failure.stack, null));
    wrapper.initCause(error);
    throw wrapper;
  }

  /** The same for what the user's own code threw. */
  static RuntimeException raise(Throwable error) {
    unchecked(error);
    throw new CompletionException(error);
  }

  private static void unchecked(Throwable error) {
    if (error instanceof RuntimeException unchecked) {
      throw unchecked;
    }
    if (error instanceof Error unchecked) {
      throw unchecked;
    }
  }

  /**
   * The error a caller of {@code result()} sees: RunFailed with the run's own error as its cause.
   */
  EverstepException ofRun(String run, DeclaredErrors declared) {
    if (ErrorCode.RUN_CANCELLED.text().equals(code)) {
      return new RunCancelled(message, About.run(run));
    }
    RunFailed out =
        new RunFailed(
            message.isEmpty() ? type : type + ": " + message,
            new About(null, null, details, stack, run));
    out.initCause(exception(declared));
    return out;
  }

  /**
   * The class's name. Most errors of the engine share a class here; in other languages each has one
   * of its own, and whoever groups failures by type is to find those of all languages together.
   */
  static String typeOf(Throwable error) {
    if (error.getClass() == EverstepException.class) {
      return camelCase(((EverstepException) error).code().text());
    }
    String name = error.getClass().getSimpleName();
    return name.isEmpty() ? error.getClass().getName() : name;
  }

  private static String camelCase(String code) {
    StringBuilder out = new StringBuilder(code.length());
    for (String word : code.split("_", -1)) {
      out.append(Character.toUpperCase(word.charAt(0))).append(word, 1, word.length());
    }
    return out.toString();
  }

  // An exception's methods are the program's code, too: one that throws must not keep the failure
  // from being recorded, or the run would be given back and fail the same way without end.

  static @Nullable Throwable causeIn(Throwable error) {
    try {
      return error.getCause();
    } catch (RuntimeException | Error broken) {
      return null;
    }
  }

  static StackTraceElement[] stackIn(Throwable error) {
    try {
      StackTraceElement[] frames = error.getStackTrace();
      return frames == null || Arrays.asList(frames).contains(null)
          ? new StackTraceElement[0]
          : frames;
    } catch (RuntimeException | Error broken) {
      return new StackTraceElement[0];
    }
  }

  private static String messageOf(Throwable error) {
    try {
      String text = error.getMessage();
      return text == null ? "" : text;
    } catch (RuntimeException | Error broken) {
      return "<its text raised " + broken.getClass().getSimpleName() + ">";
    }
  }

  /** Without lone surrogates, which have no UTF-8 form. */
  static String printable(String text) {
    return new String(text.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8);
  }

  private static String clipped(String text) {
    String out = printable(text);
    return out.length() > MAX_MESSAGE ? printable(out.substring(0, MAX_MESSAGE)) : out;
  }

  /** Innermost call last; frames of this library left out. */
  private static @Nullable String stackOf(Throwable error) {
    List<String> lines = new ArrayList<>();
    int size = 0;
    for (StackTraceElement frame : stackIn(error)) {
      if (Location.isOurs(frame.getClassName())) {
        continue;
      }
      String line = "  at " + frame + "\n";
      size += line.length();
      if (size > MAX_STACK) {
        break;
      }
      lines.add(line);
    }
    Collections.reverse(lines);
    return lines.isEmpty() ? null : printable(String.join("", lines));
  }
}
