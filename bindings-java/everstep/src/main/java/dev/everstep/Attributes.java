package dev.everstep;

import com.fasterxml.jackson.core.JsonProcessingException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Attributes as the engine has them. Only what JSON has itself: a date or an enum would be found by
 * another text than the one it was given as, and NaN is no number there.
 */
final class Attributes {
  private static final Set<Class<?>> KINDS =
      Set.of(
          String.class,
          Boolean.class,
          Byte.class,
          Short.class,
          Integer.class,
          Long.class,
          BigInteger.class,
          BigDecimal.class);

  private Attributes() {}

  static String of(Map<String, ?> values) {
    Options.required(values, "attributes").forEach(Attributes::check);
    return json(values);
  }

  static String value(String name, Object value) {
    check(name, Options.required(value, "the attribute's value"));
    return json(value);
  }

  private static void check(String name, @Nullable Object value) {
    Options.required(name, "an attribute's name");
    boolean finite =
        (value instanceof Double number && Double.isFinite(number))
            || (value instanceof Float small && Float.isFinite(small));
    if (value != null && !finite && !KINDS.contains(value.getClass())) {
      throw Payloads.invalid(
          "attribute "
              + name
              + ": a "
              + value.getClass().getName()
              + " is no text, finite number or boolean");
    }
  }

  private static String json(Object value) {
    try {
      return Payloads.PLAIN.writeValueAsString(value);
    } catch (JsonProcessingException error) {
      throw Payloads.invalid("attributes: " + error.getOriginalMessage());
    }
  }
}
