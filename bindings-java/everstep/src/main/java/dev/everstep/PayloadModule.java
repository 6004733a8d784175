package dev.everstep;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.BeanDescription;
import com.fasterxml.jackson.databind.DeserializationConfig;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.JsonDeserializer;
import com.fasterxml.jackson.databind.JsonSerializer;
import com.fasterxml.jackson.databind.SerializationConfig;
import com.fasterxml.jackson.databind.SerializerProvider;
import com.fasterxml.jackson.databind.deser.BeanDeserializerModifier;
import com.fasterxml.jackson.databind.deser.std.StdScalarDeserializer;
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.ser.BeanSerializerModifier;
import com.fasterxml.jackson.databind.ser.std.BeanSerializerBase;
import com.fasterxml.jackson.databind.ser.std.StdScalarSerializer;
import com.fasterxml.jackson.databind.ser.std.StdSerializer;
import com.fasterxml.jackson.databind.type.ArrayType;
import com.fasterxml.jackson.databind.type.CollectionType;
import com.fasterxml.jackson.databind.type.MapType;
import java.io.IOException;
import java.io.Serial;
import java.nio.ByteBuffer;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.MonthDay;
import java.time.OffsetDateTime;
import java.time.OffsetTime;
import java.time.Period;
import java.time.Year;
import java.time.YearMonth;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.util.Date;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.function.Function;

/** How Jackson writes and reads what {@code core/docs/payload.md} has tags for. */
final class PayloadModule extends SimpleModule {
  @Serial private static final long serialVersionUID = 1L;

  private final transient Payloads payloads;

  @SuppressWarnings("JavaUtilDate") // Old beans have them.
  PayloadModule(Payloads payloads) {
    super("everstep");
    this.payloads = payloads;
    writes(Instant.class, "time", value -> Times.write(value.atOffset(ZoneOffset.UTC)));
    writes(OffsetDateTime.class, "time", Times::write);
    writes(ZonedDateTime.class, "time", value -> Times.write(value.toOffsetDateTime()));
    writes(LocalDateTime.class, "time", Times::write);
    writes(LocalDate.class, "date", LocalDate::toString);
    writes(
        Date.class,
        "time",
        value -> Times.write(Instant.ofEpochMilli(value.getTime()).atOffset(ZoneOffset.UTC)));
    writes(UUID.class, "uuid", UUID::toString);
    text(Duration.class, Times::write, Times::readDuration);
    text(LocalTime.class, LocalTime::toString, LocalTime::parse);
    text(OffsetTime.class, OffsetTime::toString, OffsetTime::parse);
    text(Period.class, Period::toString, Period::parse);
    text(YearMonth.class, YearMonth::toString, YearMonth::parse);
    text(MonthDay.class, MonthDay::toString, MonthDay::parse);
    text(Year.class, Year::toString, Year::parse);
    text(ZoneId.class, ZoneId::getId, ZoneId::of);
    text(ZoneOffset.class, ZoneOffset::getId, ZoneOffset::of);
    reads(Instant.class, OffsetDateTime.class, OffsetDateTime::toInstant);
    reads(OffsetDateTime.class, OffsetDateTime.class, value -> value);
    reads(ZonedDateTime.class, OffsetDateTime.class, OffsetDateTime::toZonedDateTime);
    reads(Date.class, OffsetDateTime.class, value -> Date.from(value.toInstant()));
    reads(LocalDateTime.class, LocalDateTime.class, value -> value);
    reads(LocalDate.class, LocalDate.class, value -> value);
    addDeserializer(Object.class, new Untyped());
  }

  @Override
  public void setupModule(SetupContext context) {
    super.setupModule(context);
    context.addBeanSerializerModifier(new Writers(payloads));
    context.addBeanDeserializerModifier(new Readers());
  }

  private <T> void writes(Class<T> type, String tag, Function<T, String> print) {
    addSerializer(
        type,
        new StdScalarSerializer<T>(type) {
          @Serial private static final long serialVersionUID = 1L;

          @Override
          public void serialize(T value, JsonGenerator out, SerializerProvider provider)
              throws IOException {
            if (out instanceof PayloadGenerator tags) {
              tags.writeTag(tag, print.apply(value));
            } else {
              out.writeString(print.apply(value));
            }
          }
        });
  }

  private <T> void text(Class<T> type, Function<T, String> print, Function<String, T> parse) {
    addSerializer(
        type,
        new StdScalarSerializer<T>(type) {
          @Serial private static final long serialVersionUID = 1L;

          @Override
          public void serialize(T value, JsonGenerator out, SerializerProvider provider)
              throws IOException {
            out.writeString(print.apply(value));
          }
        });
    addDeserializer(
        type,
        new StdScalarDeserializer<T>(type) {
          @Serial private static final long serialVersionUID = 1L;

          @Override
          public T deserialize(JsonParser in, DeserializationContext context) throws IOException {
            if (!in.hasToken(JsonToken.VALUE_STRING)) {
              return type.cast(context.handleUnexpectedToken(type, in));
            }
            try {
              return parse.apply(in.getText());
            } catch (DateTimeException error) {
              return type.cast(context.handleWeirdStringValue(type, "", "not of its form"));
            }
          }
        });
  }

  /** A tag's value, which is of the type {@code stored}, as another type. */
  private <S, T> void reads(Class<T> type, Class<S> stored, Function<S, T> convert) {
    addDeserializer(
        type,
        new StdScalarDeserializer<T>(type) {
          @Serial private static final long serialVersionUID = 1L;

          @Override
          public T deserialize(JsonParser in, DeserializationContext context) throws IOException {
            if (in.hasToken(JsonToken.VALUE_EMBEDDED_OBJECT)
                && stored.isInstance(in.getEmbeddedObject())) {
              return convert.apply(stored.cast(in.getEmbeddedObject()));
            }
            return type.cast(context.handleUnexpectedToken(type, in));
          }
        });
  }

  private static final class Writers extends BeanSerializerModifier {
    @Serial private static final long serialVersionUID = 1L;

    private final transient Payloads payloads;

    Writers(Payloads payloads) {
      this.payloads = payloads;
    }

    @Override
    public JsonSerializer<?> modifySerializer(
        SerializationConfig config, BeanDescription description, JsonSerializer<?> serializer) {
      Class<?> type = description.getBeanClass();
      return serializer instanceof BeanSerializerBase && Types.isPlatform(type)
          ? new NoValue(type)
          : serializer;
    }

    @Override
    public JsonSerializer<?> modifyCollectionSerializer(
        SerializationConfig config,
        CollectionType type,
        BeanDescription description,
        JsonSerializer<?> serializer) {
      return Set.class.isAssignableFrom(type.getRawClass()) ? new SetWriter(payloads) : serializer;
    }

    @Override
    @SuppressWarnings("unchecked")
    public JsonSerializer<?> modifyMapSerializer(
        SerializationConfig config,
        MapType type,
        BeanDescription description,
        JsonSerializer<?> serializer) {
      return new MapWriter(payloads, (JsonSerializer<Object>) serializer);
    }
  }

  /** A thread, a stream, a connection: Jackson would write their getters. */
  static final class NoValue extends StdSerializer<Object> {
    @Serial private static final long serialVersionUID = 1L;

    NoValue(Class<?> type) {
      super(type, false);
    }

    @Override
    public void serialize(Object value, JsonGenerator out, SerializerProvider provider)
        throws IOException {
      provider.reportBadDefinition(
          handledType(), "a value of type " + value.getClass().getName() + " cannot be stored");
    }
  }

  /** In order of the elements' bytes, so that the same set has the same digest in every process. */
  private static final class SetWriter extends StdSerializer<Set<?>> {
    @Serial private static final long serialVersionUID = 1L;

    private final transient Payloads payloads;

    SetWriter(Payloads payloads) {
      super(Set.class, false);
      this.payloads = payloads;
    }

    @Override
    public void serialize(Set<?> value, JsonGenerator out, SerializerProvider provider)
        throws IOException {
      Object[] elements =
          value.stream()
              .map(element -> new Written(payloads.encode(element), element))
              .sorted()
              .map(Written::element)
              .toArray();
      ((PayloadGenerator) out).startTag("set");
      out.writeStartArray();
      for (Object element : elements) {
        provider.defaultSerializeValue(element, out);
      }
      out.writeEndArray();
      out.writeEndObject();
    }
  }

  private record Written(byte[] bytes, Object element) implements Comparable<Written> {
    @Override
    public int compareTo(Written other) {
      return java.util.Arrays.compareUnsigned(bytes, other.bytes);
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof Written written && compareTo(written) == 0;
    }

    @Override
    public int hashCode() {
      return java.util.Arrays.hashCode(bytes);
    }
  }

  /** An object where every key is a string of the user's own, else the tag. */
  private static final class MapWriter extends StdSerializer<Map<?, ?>>
      implements com.fasterxml.jackson.databind.ser.ContextualSerializer {
    @Serial private static final long serialVersionUID = 1L;

    private final transient Payloads payloads;
    private final JsonSerializer<Object> plain;

    MapWriter(Payloads payloads, JsonSerializer<Object> plain) {
      super(Map.class, false);
      this.payloads = payloads;
      this.plain = plain;
    }

    @Override
    @SuppressWarnings("unchecked")
    public JsonSerializer<?> createContextual(
        SerializerProvider provider, com.fasterxml.jackson.databind.BeanProperty property)
        throws com.fasterxml.jackson.databind.JsonMappingException {
      return new MapWriter(
          payloads,
          (JsonSerializer<Object>) provider.handleSecondaryContextualization(plain, property));
    }

    @Override
    public void serialize(Map<?, ?> value, JsonGenerator out, SerializerProvider provider)
        throws IOException {
      if (value.keySet().stream().allMatch(key -> key instanceof String && !key.equals("$es"))) {
        plain.serialize(value, out, provider);
        return;
      }
      ((PayloadGenerator) out).startTag("map");
      out.writeStartArray();
      Set<ByteBuffer> seen = new HashSet<>();
      for (Map.Entry<?, ?> entry : value.entrySet()) {
        byte[] key = payloads.encode(entry.getKey());
        // 1 and 1L are two keys here and one in a row: a reader would keep the last.
        if (!seen.add(ByteBuffer.wrap(key))) {
          throw Payloads.invalid("the map holds two keys that are written alike");
        }
        out.writeStartArray();
        // As it is: to write a key once more costs 2^n where n maps are keys of each other.
        ((PayloadGenerator) out).writeEncoded(key);
        provider.defaultSerializeValue(entry.getValue(), out);
        out.writeEndArray();
      }
      out.writeEndArray();
      out.writeEndObject();
    }
  }

  private static final class Readers extends BeanDeserializerModifier {
    @Serial private static final long serialVersionUID = 1L;

    @Override
    public JsonDeserializer<?> modifyCollectionDeserializer(
        DeserializationConfig config,
        CollectionType type,
        BeanDescription description,
        JsonDeserializer<?> deserializer) {
      return new TaggedReader(deserializer, null);
    }

    @Override
    public JsonDeserializer<?> modifyArrayDeserializer(
        DeserializationConfig config,
        ArrayType type,
        BeanDescription description,
        JsonDeserializer<?> deserializer) {
      return type.getContentType().isPrimitive()
          ? deserializer
          : new TaggedReader(deserializer, null);
    }

    @Override
    public JsonDeserializer<?> modifyMapDeserializer(
        DeserializationConfig config,
        MapType type,
        BeanDescription description,
        JsonDeserializer<?> deserializer) {
      return new TaggedReader(deserializer, type);
    }
  }
}
