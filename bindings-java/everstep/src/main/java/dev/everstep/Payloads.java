package dev.everstep;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonFactoryBuilder;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteConstraints;
import com.fasterxml.jackson.core.json.JsonWriteFeature;
import com.fasterxml.jackson.core.util.ByteArrayBuilder;
import com.fasterxml.jackson.core.util.JsonRecyclerPools;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.jsontype.BasicPolymorphicTypeValidator;
import com.fasterxml.jackson.databind.util.TokenBuffer;
import java.io.IOException;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.nio.charset.StandardCharsets;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Values to bytes and back: codec 1 of {@code core/docs/payload.md}, on Jackson.
 *
 * <p>Speed decides the shape: scalars are written without any machinery; text without a tag, an
 * escape or a number beyond 2^53 goes straight through Jackson's parser. Everything else takes the
 * way over {@link TagReader}.
 */
final class Payloads {
  static final long MAX_SAFE = 9007199254740991L;
  static final int MAX_DEPTH = 128;

  private static final byte[] NULL = {'n', 'u', 'l', 'l'};
  private static final byte[] TAG = "\"$es\"".getBytes(StandardCharsets.US_ASCII);

  /** For settings and attributes: JSON without tags. */
  static final JsonMapper PLAIN = JsonMapper.builder(factoryBuilder().build()).build();

  private final JsonMapper mapper;
  private final JsonFactory factory;
  private final ObjectWriter writer;
  private final ConcurrentHashMap<Type, ObjectWriter> writers = new ConcurrentHashMap<>();
  private final ConcurrentHashMap<Type, ObjectReader> readers = new ConcurrentHashMap<>();

  Payloads(Consumer<JsonMapper.Builder> configurer) {
    JsonFactory json =
        factoryBuilder()
            .streamReadConstraints(
                StreamReadConstraints.builder()
                    .maxNestingDepth(MAX_DEPTH)
                    // The engine has a limit of its own, for whole payloads.
                    .maxStringLength(Integer.MAX_VALUE)
                    .maxNumberLength(100_000)
                    .build())
            .streamWriteConstraints(
                StreamWriteConstraints.builder().maxNestingDepth(MAX_DEPTH).build())
            .configure(StreamReadFeature.STRICT_DUPLICATE_DETECTION, false)
            .configure(JsonWriteFeature.WRITE_HEX_UPPER_CASE, false)
            .configure(JsonWriteFeature.COMBINE_UNICODE_SURROGATES_IN_UTF8, true)
            .build();
    JsonMapper.Builder builder =
        JsonMapper.builder(json)
            .addModule(new com.fasterxml.jackson.datatype.jdk8.Jdk8Module())
            .addModule(new PayloadModule(this))
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES)
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .disable(DeserializationFeature.ACCEPT_FLOAT_AS_INT)
            .disable(MapperFeature.ALLOW_COERCION_OF_SCALARS)
            .disable(SerializationFeature.WRITE_DATES_AS_TIMESTAMPS)
            // Nothing in a stored row can pick a class: only names an annotation lists are
            // followed.
            .polymorphicTypeValidator(BasicPolymorphicTypeValidator.builder().build());
    configurer.accept(builder);
    this.mapper = builder.build();
    this.factory = mapper.getFactory();
    this.writer = mapper.writer();
  }

  /**
   * Buffers are kept in a pool of the factory's. Jackson's default keeps them with each thread,
   * softly: a thread of the user's would hold the class loader of a closed application.
   */
  private static JsonFactoryBuilder factoryBuilder() {
    JsonFactoryBuilder builder = new JsonFactoryBuilder();
    builder.recyclerPool(JsonRecyclerPools.newConcurrentDequePool());
    return builder;
  }

  JsonMapper mapper() {
    return mapper;
  }

  JavaType type(Type type) {
    return mapper.constructType(type);
  }

  // -- writing

  byte[] encode(@Nullable Object value) {
    return encode(value, Object.class);
  }

  /**
   * {@code type} is what was declared. A value's class says all of a type without parameters; of a
   * list's elements it says nothing, and without their declared type Jackson would leave out what
   * tells one subtype from another.
   */
  byte[] encode(@Nullable Object value, Type type) {
    if (value == null) {
      return NULL;
    }
    if (value instanceof Optional<?> optional && type instanceof ParameterizedType parameterized) {
      // Jackson writes what is inside as its declared type, and so without a subtype's properties.
      return encode(optional.orElse(null), parameterized.getActualTypeArguments()[0]);
    }
    if (value instanceof Integer
        || value instanceof Boolean
        || (value instanceof Long number && number >= -MAX_SAFE && number <= MAX_SAFE)) {
      return value.toString().getBytes(StandardCharsets.US_ASCII);
    }
    if (value instanceof String text) {
      byte[] plain = plainText(text);
      if (plain != null) {
        return plain;
      }
    }
    try (ByteArrayBuilder out = new ByteArrayBuilder(256)) {
      try (PayloadGenerator generator = new PayloadGenerator(factory.createGenerator(out))) {
        writerOf(type).writeValue((JsonGenerator) generator, value);
      }
      return out.toByteArray();
    } catch (IOException error) {
      throw invalid(PayloadErrors.writing(error));
    } catch (StackOverflowError error) {
      throw invalid("nested deeper than " + MAX_DEPTH + " levels, or a cycle");
    }
  }

  private ObjectWriter writerOf(Type type) {
    if (type instanceof Class) {
      return writer;
    }
    ObjectWriter known = writers.get(type);
    return known == null ? writers.computeIfAbsent(type, t -> mapper.writerFor(type(t))) : known;
  }

  /** The text between quotes, null where it needs an escape or more than one byte a letter. */
  private static byte @Nullable [] plainText(String text) {
    int length = text.length();
    byte[] out = new byte[length + 2];
    for (int index = 0; index < length; index++) {
      char letter = text.charAt(index);
      if (letter < ' ' || letter > '~' || letter == '"' || letter == '\\') {
        return null;
      }
      out[index + 1] = (byte) letter;
    }
    out[0] = '"';
    out[length + 1] = '"';
    return out;
  }

  // -- reading

  @Nullable Object decode(byte @Nullable [] data, Type type) {
    if (data == null) {
      return null;
    }
    if (type == String.class && data.length > 1 && data[0] == '"' && isPlainText(data)) {
      return new String(data, 1, data.length - 2, StandardCharsets.US_ASCII);
    }
    if ((type == Integer.class || type == Long.class) && isSmallNumber(data)) {
      int number = Integer.parseInt(new String(data, StandardCharsets.US_ASCII));
      return type == Integer.class ? (Object) number : (Object) (long) number;
    }
    ObjectReader reader = readers.get(type);
    if (reader == null) {
      reader = readers.computeIfAbsent(type, t -> mapper.readerFor(type(t)));
    }
    try {
      if (data.length > 2 && data[0] == (byte) 0xef) {
        throw invalid("the stored value begins with a byte order mark");
      }
      if (isPlain(data)) {
        return reader.readValue(data);
      }
      try (TokenBuffer buffer = new TokenBuffer(mapper, false);
          JsonParser parser = factory.createParser(data)) {
        parser.nextToken();
        new TagReader(parser, buffer, mapper).value();
        if (parser.nextToken() != null) {
          throw invalid("the stored value has something behind its end");
        }
        try (JsonParser tokens = buffer.asParser(mapper)) {
          return tokens.nextToken() == JsonToken.VALUE_NULL ? null : reader.readValue(tokens);
        }
      }
    } catch (IOException error) {
      throw invalid(PayloadErrors.reading(error, type));
    }
  }

  /** A string of printable ASCII without quotes and escapes inside. */
  private static boolean isPlainText(byte[] data) {
    for (int index = 1; index < data.length - 1; index++) {
      byte letter = data[index];
      if (letter < ' ' || letter == '"' || letter == '\\') {
        return false;
      }
    }
    return data[data.length - 1] == '"';
  }

  /** Digits that any whole number has room for. */
  private static boolean isSmallNumber(byte[] data) {
    if (data.length == 0 || data.length > 9 || (data[0] == '0' && data.length > 1)) {
      return false;
    }
    for (byte letter : data) {
      if (letter < '0' || letter > '9') {
        return false;
      }
    }
    return true;
  }

  /** No tag, no escape, no whole number that may lie beyond 2^53. */
  private static boolean isPlain(byte[] data) {
    int digits = 0;
    for (int index = 0; index < data.length; index++) {
      byte letter = data[index];
      if (letter >= '0' && letter <= '9') {
        if (++digits > 15) {
          return false;
        }
        continue;
      }
      digits = 0;
      if (letter == '\\' || (letter == '"' && isTag(data, index))) {
        return false;
      }
    }
    return data.length > 0;
  }

  private static boolean isTag(byte[] data, int at) {
    if (at + TAG.length > data.length) {
      return false;
    }
    for (int index = 1; index < TAG.length; index++) {
      if (data[at + index] != TAG[index]) {
        return false;
      }
    }
    return true;
  }

  static EverstepException invalid(String message) {
    return new EverstepException(ErrorCode.PAYLOAD_INVALID, message);
  }
}
