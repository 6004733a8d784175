package dev.everstep;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.JsonDeserializer;
import com.fasterxml.jackson.databind.deser.std.DelegatingDeserializer;
import com.fasterxml.jackson.databind.type.MapType;
import com.fasterxml.jackson.databind.util.TokenBuffer;
import java.io.IOException;
import java.io.Serial;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Reads a {@link Tagged} set into any collection or array, and tagged pairs into any map. */
final class TaggedReader extends DelegatingDeserializer {
  @Serial private static final long serialVersionUID = 1L;

  private final @Nullable MapType map;

  TaggedReader(JsonDeserializer<?> plain, @Nullable MapType map) {
    super(plain);
    this.map = map;
  }

  @Override
  protected JsonDeserializer<?> newDelegatingInstance(JsonDeserializer<?> plain) {
    return new TaggedReader(plain, map);
  }

  @Override
  public @Nullable Object deserialize(JsonParser in, DeserializationContext context)
      throws IOException {
    if (in.hasToken(JsonToken.VALUE_EMBEDDED_OBJECT)) {
      if (map == null && in.getEmbeddedObject() instanceof Tagged.Elements set) {
        try (TokenBuffer array = new TokenBuffer(in.getCodec(), false)) {
          array.writeStartArray();
          for (TokenBuffer element : set.elements()) {
            array.append(element);
          }
          array.writeEndArray();
          try (JsonParser tokens = array.asParser(in)) {
            tokens.nextToken();
            return super.deserialize(tokens, context);
          }
        }
      }
      if (map != null && in.getEmbeddedObject() instanceof Tagged.Pairs pairs) {
        return pairs(pairs.pairs(), in, context, map);
      }
    }
    return super.deserialize(in, context);
  }

  private Object pairs(
      List<TokenBuffer> pairs, JsonParser in, DeserializationContext context, MapType type)
      throws IOException {
    Map<@Nullable Object, @Nullable Object> out = new LinkedHashMap<>();
    for (int index = 0; index < pairs.size(); index += 2) {
      try (JsonParser key = pairs.get(index).asParser(in);
          JsonParser value = pairs.get(index + 1).asParser(in)) {
        key.nextToken();
        value.nextToken();
        out.put(
            context.readValue(key, type.getKeyType()),
            context.readValue(value, type.getContentType()));
      }
    }
    if (type.getRawClass().isInstance(out)) {
      return out;
    }
    // A TreeMap, an EnumMap and the like are made by Jackson, empty, and filled.
    try (TokenBuffer empty = new TokenBuffer(in.getCodec(), false)) {
      empty.writeStartObject();
      empty.writeEndObject();
      try (JsonParser tokens = empty.asParser(in)) {
        tokens.nextToken();
        @SuppressWarnings("unchecked")
        Map<@Nullable Object, @Nullable Object> made =
            (Map<@Nullable Object, @Nullable Object>) super.deserialize(tokens, context);
        made.putAll(out);
        return made;
      }
    }
  }
}
