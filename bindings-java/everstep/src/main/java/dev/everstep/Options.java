package dev.everstep;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What option classes share: null is never "not given". An id that is null by mistake must not
 * become a random one.
 */
final class Options {
  private Options() {}

  static <T> T required(@Nullable T value, String what) {
    if (value == null) {
      throw invalid(what + " is null; give a value (an option that has none is left out)");
    }
    return value;
  }

  /** A wait or a limit. */
  static Duration notNegative(@Nullable Duration value, String what) {
    Duration given = required(value, what);
    if (given.isNegative()) {
      throw invalid(what + " is " + given + "; a duration must not be negative");
    }
    return given;
  }

  /** Where no call of the engine looks at it: as the engine would. */
  static void requiredName(@Nullable String name, String what) {
    int bytes = required(name, what).getBytes(StandardCharsets.UTF_8).length;
    if (bytes == 0
        || bytes > 255
        || name.chars().anyMatch(Character::isISOControl)
        || !TagReader.isWellFormed(name)) {
      throw new EverstepException(
          ErrorCode.ID_INVALID,
          what + " must be 1 to 255 bytes of UTF-8 without control characters");
    }
  }

  static EverstepException invalid(String message) {
    return new EverstepException(ErrorCode.CONFIG_INVALID, message);
  }

  static @Nullable Long milliseconds(@Nullable Duration value) {
    return value == null ? null : Times.milliseconds(value);
  }

  /** Trailing nulls left out; null when nothing is said at all. */
  static @Nullable List<@Nullable Object> record(@Nullable Object... values) {
    int end = values.length;
    while (end > 0 && values[end - 1] == null) {
      end--;
    }
    if (end == 0) {
      return null;
    }
    List<@Nullable Object> out = new ArrayList<>(end);
    for (int index = 0; index < end; index++) {
      out.add(values[index]);
    }
    return out;
  }
}
