package dev.everstep;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.core.JsonParseException;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.exc.InvalidDefinitionException;
import com.fasterxml.jackson.databind.exc.MismatchedInputException;
import com.fasterxml.jackson.databind.exc.ValueInstantiationException;
import java.io.IOException;
import java.lang.reflect.Type;
import org.jspecify.annotations.Nullable;

/**
 * What is said of a value that cannot be written or read. Jackson's own texts quote the value, and
 * these end in rows, lists and logs, where no payload belongs.
 */
final class PayloadErrors {
  private static final int LONGEST_PATH = 200;

  private PayloadErrors() {}

  static String writing(IOException error) {
    Throwable cause = Failure.causeIn(error);
    if (cause instanceof RuntimeException && !(cause instanceof EverstepException)) {
      // A getter or a serializer of the program's.
      return "writing it raised " + Failure.typeOf(cause) + path(error);
    }
    return (error instanceof JacksonException known
            ? known.getOriginalMessage()
            : String.valueOf(error.getMessage()))
        + path(error);
  }

  static String reading(IOException error, Type type) {
    return "the stored value cannot be read as "
        + type.getTypeName()
        + ": "
        + why(error)
        + path(error);
  }

  private static String why(IOException error) {
    if (error instanceof TagReader.Malformed malformed) {
      return malformed.getOriginalMessage();
    }
    if (error instanceof InvalidDefinitionException definition) {
      return definition.getOriginalMessage();
    }
    if (error instanceof ValueInstantiationException made) {
      return made.getType().getRawClass().getName() + " refuses it" + raised(made);
    }
    if (error instanceof MismatchedInputException mismatched) {
      Class<?> wanted = mismatched.getTargetType();
      return wanted == null ? "another type is there" : "what is there is no " + wanted.getName();
    }
    if (error instanceof JsonParseException) {
      return "it is no JSON";
    }
    return "it is not of that form" + raised(error);
  }

  private static String raised(IOException error) {
    Throwable cause = Failure.causeIn(error);
    return cause == null ? "" : " (" + Failure.typeOf(cause) + ")";
  }

  /** Where in the value; field names and indexes only. */
  private static String path(@Nullable IOException error) {
    if (!(error instanceof JsonMappingException mapping)) {
      return "";
    }
    StringBuilder out = new StringBuilder();
    for (JsonMappingException.Reference step : mapping.getPath()) {
      if (out.length() > LONGEST_PATH) {
        return " (at " + out + "..)";
      }
      if (step.getFieldName() != null) {
        out.append('.').append(step.getFieldName());
      } else if (step.getIndex() >= 0) {
        out.append('[').append(step.getIndex()).append(']');
      }
    }
    return out.isEmpty() ? "" : " (at " + out + ")";
  }
}
