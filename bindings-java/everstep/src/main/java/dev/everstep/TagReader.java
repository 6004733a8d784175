package dev.everstep;

import com.fasterxml.jackson.core.JsonParseException;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.util.TokenBuffer;
import java.io.IOException;
import java.io.Serial;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.UUID;
import java.util.regex.Pattern;

/**
 * Copies one value from the text into tokens, with its tags turned into what they stand for:
 * scalars as Java values, sets and maps as {@link Tagged}, read by the type that wants them.
 */
final class TagReader {
  private static final Pattern INTEGER = Pattern.compile("-?[0-9]+");
  private static final Pattern DECIMAL = Pattern.compile("-?[0-9]+(\\.[0-9]+)?(E[+-]?[0-9]+)?");
  private static final Pattern UUID_TEXT =
      Pattern.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}");

  private final JsonParser in;
  private final ObjectMapper mapper;
  private TokenBuffer out;

  TagReader(JsonParser in, TokenBuffer out, ObjectMapper mapper) {
    this.in = in;
    this.out = out;
    this.mapper = mapper;
  }

  /** The value the parser stands on; leaves it on the value's last token. */
  void value() throws IOException {
    JsonToken token = in.currentToken();
    if (token == null) {
      throw new Malformed(in, "there is no value");
    }
    switch (token) {
      case START_OBJECT -> object();
      case START_ARRAY -> {
        out.writeStartArray();
        while (in.nextToken() != JsonToken.END_ARRAY) {
          value();
        }
        out.writeEndArray();
      }
      case VALUE_STRING -> out.writeString(wellFormed(in.getText()));
      case VALUE_NUMBER_INT -> integer();
      case VALUE_NUMBER_FLOAT -> out.writeNumber(in.getDoubleValue());
      case VALUE_TRUE -> out.writeBoolean(true);
      case VALUE_FALSE -> out.writeBoolean(false);
      case VALUE_NULL -> out.writeNull();
      default -> throw new Malformed(in, "unexpected " + token);
    }
  }

  private void integer() throws IOException {
    BigInteger number = in.getBigIntegerValue();
    if (number.bitLength() > 53 || Math.abs(number.longValue()) > Payloads.MAX_SAFE) {
      out.writeNumber(number.doubleValue());
    } else {
      whole(number);
    }
  }

  private void whole(BigInteger number) throws IOException {
    if (number.bitLength() < 32) {
      out.writeNumber(number.intValue());
    } else if (number.bitLength() < 64) {
      out.writeNumber(number.longValue());
    } else {
      out.writeNumber(number);
    }
  }

  private void object() throws IOException {
    JsonToken token = in.nextToken();
    if (token == JsonToken.FIELD_NAME && in.currentName().equals("$es")) {
      tag();
      return;
    }
    out.writeStartObject();
    for (; token != JsonToken.END_OBJECT; token = in.nextToken()) {
      String name = in.currentName();
      if (name.equals("$es")) {
        throw new Malformed(in, "an object with a key $es has exactly $es and v");
      }
      out.writeFieldName(wellFormed(name));
      in.nextToken();
      value();
    }
    out.writeEndObject();
  }

  private void tag() throws IOException {
    require(in.nextToken() == JsonToken.VALUE_STRING, "a tag is a string");
    String tag = in.getText();
    require(
        in.nextToken() == JsonToken.FIELD_NAME && in.currentName().equals("v"),
        "a tag has a value v");
    JsonToken token = in.nextToken();
    switch (tag) {
      case "set" -> {
        require(token == JsonToken.START_ARRAY, "the value of the tag set is an array");
        List<TokenBuffer> elements = new ArrayList<>();
        while (in.nextToken() != JsonToken.END_ARRAY) {
          elements.add(apart());
        }
        out.writeEmbeddedObject(new Tagged.Elements(elements));
      }
      case "map" -> {
        require(token == JsonToken.START_ARRAY, "the value of the tag map is an array");
        List<TokenBuffer> pairs = new ArrayList<>();
        while (in.nextToken() != JsonToken.END_ARRAY) {
          require(in.currentToken() == JsonToken.START_ARRAY, "a map has pairs");
          for (int side = 0; side < 2; side++) {
            require(in.nextToken() != JsonToken.END_ARRAY, "a map has pairs");
            pairs.add(apart());
          }
          require(in.nextToken() == JsonToken.END_ARRAY, "a map has pairs");
        }
        out.writeEmbeddedObject(new Tagged.Pairs(pairs));
      }
      default -> {
        require(token == JsonToken.VALUE_STRING, "the value of the tag " + tag + " is a string");
        scalar(tag, in.getText());
      }
    }
    require(
        in.nextToken() == JsonToken.END_OBJECT, "an object with a key $es has exactly $es and v");
  }

  private void scalar(String tag, String text) throws IOException {
    try {
      switch (tag) {
        case "int" -> {
          require(INTEGER.matcher(text).matches(), "malformed value of the tag int");
          whole(new BigInteger(text));
        }
        case "float" ->
            out.writeNumber(
                switch (text) {
                  case "NaN" -> Double.NaN;
                  case "Infinity" -> Double.POSITIVE_INFINITY;
                  case "-Infinity" -> Double.NEGATIVE_INFINITY;
                  case "-0" -> -0.0;
                  default -> throw new IllegalArgumentException("no such float");
                });
        case "dec" -> {
          require(DECIMAL.matcher(text).matches(), "malformed value of the tag dec");
          out.writeNumber(new BigDecimal(text));
        }
        case "bytes" -> out.writeEmbeddedObject(Base64.getDecoder().decode(text));
        case "time" -> out.writeEmbeddedObject(Times.readTime(text));
        case "date" -> out.writeEmbeddedObject(Times.readDate(text));
        case "uuid" -> {
          require(UUID_TEXT.matcher(text).matches(), "malformed value of the tag uuid");
          out.writeEmbeddedObject(UUID.fromString(text));
        }
        default -> throw new Malformed(in, "unknown tag " + tag);
      }
    } catch (IllegalArgumentException | java.time.DateTimeException error) {
      throw new Malformed(in, "malformed value of the tag " + tag, error);
    }
  }

  private TokenBuffer apart() throws IOException {
    TokenBuffer outer = out;
    out = new TokenBuffer(mapper, false);
    try {
      value();
      return out;
    } finally {
      out = outer;
    }
  }

  private String wellFormed(String text) throws IOException {
    require(isWellFormed(text), "a string holds a lone surrogate");
    return text;
  }

  /** Whether the text has a UTF-8 form. */
  static boolean isWellFormed(String text) {
    int index = 0;
    while (index < text.length()) {
      // A code point in the range of surrogates is half a pair.
      int point = text.codePointAt(index);
      if (point >= Character.MIN_SURROGATE && point <= Character.MAX_SURROGATE) {
        return false;
      }
      index += Character.charCount(point);
    }
    return true;
  }

  private void require(boolean holds, String otherwise) throws IOException {
    if (!holds) {
      throw new Malformed(in, otherwise);
    }
  }

  /** What this reader says itself: it quotes no value. */
  static final class Malformed extends JsonParseException {
    @Serial private static final long serialVersionUID = 1L;

    Malformed(JsonParser in, String message) {
      super(in, message);
    }

    Malformed(JsonParser in, String message, Throwable cause) {
      super(in, message, cause);
    }
  }
}
