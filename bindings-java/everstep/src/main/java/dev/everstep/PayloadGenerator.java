package dev.everstep;

import com.fasterxml.jackson.core.Base64Variant;
import com.fasterxml.jackson.core.JsonGenerationException;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.SerializableString;
import com.fasterxml.jackson.core.io.NumberOutput;
import com.fasterxml.jackson.core.util.JsonGeneratorDelegate;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

/** Writes what JSON lacks as tags, and numbers as ECMAScript prints them, whoever asks for them. */
final class PayloadGenerator extends JsonGeneratorDelegate {
  PayloadGenerator(JsonGenerator out) {
    super(out, false);
  }

  void writeTag(String tag, String value) throws IOException {
    startTag(tag);
    delegate.writeString(value);
    delegate.writeEndObject();
  }

  /** The value and the end of the object are the caller's. */
  void startTag(String tag) throws IOException {
    delegate.writeStartObject();
    delegate.writeFieldName("$es");
    delegate.writeString(tag);
    delegate.writeFieldName("v");
  }

  /** What {@link Payloads#encode} has written, whose depth counts where it is now. */
  void writeEncoded(byte[] value) throws IOException {
    if (delegate.getOutputContext().getNestingDepth() + depth(value) > Payloads.MAX_DEPTH) {
      throw new JsonGenerationException(
          "nested deeper than " + Payloads.MAX_DEPTH + " levels", delegate);
    }
    delegate.writeRawValue(new String(value, StandardCharsets.UTF_8));
  }

  private static int depth(byte[] json) {
    int depth = 0;
    int deepest = 0;
    boolean inText = false;
    for (int index = 0; index < json.length; index++) {
      switch (json[index]) {
        case '"' -> inText = !inText;
        case '\\' -> index++;
        case '[', '{' -> deepest = inText ? deepest : Math.max(deepest, ++depth);
        case ']', '}' -> depth -= inText ? 0 : 1;
        default -> {}
      }
    }
    return deepest;
  }

  @Override
  public void writeFieldName(String name) throws IOException {
    if (name.equals("$es")) {
      throw new JsonGenerationException("a property named $es belongs to the format", delegate);
    }
    delegate.writeFieldName(wellFormed(name));
  }

  @Override
  public void writeString(String text) throws IOException {
    delegate.writeString(text == null ? null : wellFormed(text));
  }

  @Override
  public void writeString(char[] text, int offset, int length) throws IOException {
    writeString(new String(text, offset, length));
  }

  private String wellFormed(String text) throws IOException {
    if (!TagReader.isWellFormed(text)) {
      throw new JsonGenerationException(
          "a string holds a lone surrogate, which has no UTF-8 form", delegate);
    }
    return text;
  }

  @Override
  public void writeFieldName(SerializableString name) throws IOException {
    if (name.charLength() == 3) {
      writeFieldName(name.getValue());
    } else {
      delegate.writeFieldName(name);
    }
  }

  @Override
  public void writeNumber(long value) throws IOException {
    if (value > Payloads.MAX_SAFE || value < -Payloads.MAX_SAFE) {
      writeTag("int", Long.toString(value));
    } else {
      delegate.writeNumber(value);
    }
  }

  @Override
  public void writeNumber(BigInteger value) throws IOException {
    if (value.bitLength() > 53) {
      writeTag("int", value.toString());
    } else {
      writeNumber(value.longValueExact());
    }
  }

  @Override
  public void writeNumber(BigDecimal value) throws IOException {
    writeTag("dec", value.toString());
  }

  @Override
  public void writeNumber(float value) throws IOException {
    // The double of the same shortest text: 0.1f is 0.1 to its reader, not 0.10000000149011612.
    writeNumber(Double.parseDouble(Float.toString(value)));
  }

  @Override
  public void writeNumber(double value) throws IOException {
    if (Double.isNaN(value) || Double.isInfinite(value)) {
      writeTag("float", Double.toString(value));
    } else if (value == 0) {
      if (1 / value < 0) {
        writeTag("float", "-0");
      } else {
        delegate.writeNumber(0);
      }
    } else if (value == Math.rint(value) && Math.abs(value) <= Payloads.MAX_SAFE) {
      delegate.writeNumber((long) value);
    } else {
      delegate.writeNumber(print(value));
    }
  }

  // An array of the language's own numbers does not come through writeNumber by itself.

  @Override
  public void writeArray(long[] values, int offset, int length) throws IOException {
    writeStartArray(values, length);
    for (int index = offset; index < offset + length; index++) {
      writeNumber(values[index]);
    }
    writeEndArray();
  }

  @Override
  public void writeArray(double[] values, int offset, int length) throws IOException {
    writeStartArray(values, length);
    for (int index = offset; index < offset + length; index++) {
      writeNumber(values[index]);
    }
    writeEndArray();
  }

  @Override
  public void writeNumber(String encoded) throws IOException {
    writeNumber(new BigDecimal(encoded));
  }

  @Override
  public void writeBinary(Base64Variant variant, byte[] data, int offset, int length)
      throws IOException {
    byte[] part = new byte[length];
    System.arraycopy(data, offset, part, 0, length);
    writeTag("bytes", Base64.getEncoder().encodeToString(part));
  }

  /** As ECMAScript prints a number: shortest digits, exponent form from 1e21 up and below 1e-6. */
  static String print(double value) {
    String sign = value < 0 ? "-" : "";
    // Before Java 19 Double.toString does not print the shortest digits; Jackson has the algorithm.
    BigDecimal decimal =
        new BigDecimal(NumberOutput.toString(Math.abs(value), true)).stripTrailingZeros();
    String digits = decimal.unscaledValue().toString();
    int point = digits.length() - decimal.scale();
    if (digits.length() == 2) {
      // It prints two digits where one would do (4.9E-324 for 5e-324).
      String one = shorter(digits, point, Math.abs(value));
      if (one != null) {
        point += one.length() - 1;
        digits = one.substring(0, 1);
      }
    }
    int count = digits.length();
    if (count <= point && point <= 21) {
      return sign + digits + "0".repeat(point - count);
    }
    if (0 < point && point <= 21) {
      return sign + digits.substring(0, point) + "." + digits.substring(point);
    }
    if (-6 < point && point <= 0) {
      return sign + "0." + "0".repeat(-point) + digits;
    }
    String rest = count > 1 ? "." + digits.substring(1) : "";
    int exponent = point - 1;
    return sign + digits.charAt(0) + rest + "e" + (exponent < 0 ? "" : "+") + exponent;
  }

  /** The rounded digit (as {@code "10"} where it carried) if it reads back as {@code value}. */
  private static @org.jspecify.annotations.Nullable String shorter(
      String digits, int point, double value) {
    int rounded = (Integer.parseInt(digits) + 5) / 10;
    return Double.parseDouble(rounded + "E" + (point - 1)) == value
        ? Integer.toString(rounded)
        : null;
  }
}
