package dev.everstep;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.deser.std.StdDeserializer;
import com.fasterxml.jackson.databind.util.TokenBuffer;
import java.io.IOException;
import java.io.Serial;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** What {@code Object} reads: Jackson's plain values, and tags as the Java types they stand for. */
final class Untyped extends StdDeserializer<Object> {
  @Serial private static final long serialVersionUID = 1L;

  Untyped() {
    super(Object.class);
  }

  @Override
  public @Nullable Object deserialize(JsonParser in, DeserializationContext context)
      throws IOException {
    return switch (in.currentToken()) {
      case START_ARRAY -> {
        List<@Nullable Object> items = new ArrayList<>();
        while (in.nextToken() != JsonToken.END_ARRAY) {
          items.add(deserialize(in, context));
        }
        yield items;
      }
      case START_OBJECT -> {
        Map<String, @Nullable Object> fields = new LinkedHashMap<>();
        for (String name = in.nextFieldName(); name != null; name = in.nextFieldName()) {
          in.nextToken();
          fields.put(name, deserialize(in, context));
        }
        yield fields;
      }
      case VALUE_STRING -> in.getText();
      case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> in.getNumberValue();
      case VALUE_TRUE -> true;
      case VALUE_FALSE -> false;
      case VALUE_NULL -> null;
      case VALUE_EMBEDDED_OBJECT -> embedded(in.getEmbeddedObject(), in, context);
      default -> context.handleUnexpectedToken(Object.class, in);
    };
  }

  private Object embedded(Object value, JsonParser in, DeserializationContext context)
      throws IOException {
    if (value instanceof Tagged.Elements set) {
      Set<@Nullable Object> out = new LinkedHashSet<>();
      for (TokenBuffer element : set.elements()) {
        out.add(one(element, in, context));
      }
      return out;
    }
    if (value instanceof Tagged.Pairs map) {
      Map<@Nullable Object, @Nullable Object> out = new LinkedHashMap<>();
      for (int index = 0; index < map.pairs().size(); index += 2) {
        out.put(
            one(map.pairs().get(index), in, context), one(map.pairs().get(index + 1), in, context));
      }
      return out;
    }
    return value;
  }

  private @Nullable Object one(TokenBuffer tokens, JsonParser in, DeserializationContext context)
      throws IOException {
    try (JsonParser parser = tokens.asParser(in)) {
      parser.nextToken();
      return deserialize(parser, context);
    }
  }
}
