package dev.everstep;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** The payload vectors every language runs, and what is Java's own. */
final class PayloadVectorsTest {
  private static final Payloads PAYLOADS = new Payloads(builder -> {});

  private static JsonNode vectors() throws Exception {
    Path file = Path.of(System.getProperty("everstep.vectors", "../../tests/vectors/payload.json"));
    return new ObjectMapper().readTree(file.toFile());
  }

  private interface Check {
    void run(JsonNode vector) throws Exception;
  }

  private static Stream<DynamicTest> each(String part, Check check) throws Exception {
    return StreamSupport.stream(vectors().get(part).spliterator(), false)
        // A decimal that is no number has no Java value to begin with.
        .filter(v -> !v.get("name").asText().equals("decimal NaN"))
        .map(v -> DynamicTest.dynamicTest(v.get("name").asText(), () -> check.run(v)));
  }

  private static @Nullable Object build(JsonNode node) {
    Map.Entry<String, JsonNode> entry = node.properties().iterator().next();
    JsonNode value = entry.getValue();
    return switch (entry.getKey()) {
      case "null" -> null;
      case "bool" -> value.asBoolean();
      case "str" -> value.asText();
      case "int" -> whole(new BigInteger(value.asText()));
      case "float" -> number(value.asText());
      case "dec" -> new BigDecimal(value.asText());
      case "bytes" -> HexFormat.of().parseHex(value.asText());
      case "time" -> Times.readTime(value.asText());
      case "date" -> Times.readDate(value.asText());
      case "uuid" -> UUID.fromString(value.asText());
      case "list" -> {
        List<@Nullable Object> out = new ArrayList<>();
        value.forEach(item -> out.add(build(item)));
        yield out;
      }
      case "set" -> {
        Set<@Nullable Object> out = new LinkedHashSet<>();
        value.forEach(item -> out.add(build(item)));
        yield out;
      }
      case "object" -> {
        Map<String, @Nullable Object> out = new LinkedHashMap<>();
        value.forEach(pair -> out.put(pair.get(0).asText(), build(pair.get(1))));
        yield out;
      }
      case "map" -> {
        Map<@Nullable Object, @Nullable Object> out = new LinkedHashMap<>();
        value.forEach(pair -> out.put(build(pair.get(0)), build(pair.get(1))));
        yield out;
      }
      case "nested" -> {
        List<Object> out = new ArrayList<>();
        for (int level = 1; level < value.asInt(); level++) {
          out = new ArrayList<>(List.of(out));
        }
        yield out;
      }
      case "str_utf16" -> Character.toString((char) Integer.parseInt(value.get(0).asText(), 16));
      case "object_utf16_key" ->
          Map.of(Character.toString((char) Integer.parseInt(value.get(0).asText(), 16)), 1);
      default -> throw new AssertionError("unknown notation " + entry.getKey());
    };
  }

  private static Object whole(BigInteger value) {
    return value.bitLength() < 32
        ? (Object) value.intValue()
        : value.bitLength() < 64 ? (Object) value.longValue() : value;
  }

  private static Double number(String text) {
    return text.equals("-0") ? -0.0 : Double.valueOf(text);
  }

  /** Equal in type too; keys of objects in the same order. */
  private static void same(@Nullable Object wanted, @Nullable Object found) {
    if (wanted instanceof byte[] bytes) {
      assertArrayEquals(bytes, (byte[]) found);
    } else if (wanted instanceof Map<?, ?> map) {
      Map<?, ?> other = (Map<?, ?>) found;
      same(new ArrayList<>(map.keySet()), new ArrayList<>(other.keySet()));
      same(new ArrayList<>(map.values()), new ArrayList<>(other.values()));
    } else if (wanted instanceof List<?> list && found instanceof List<?> other) {
      assertEquals(list.size(), other.size());
      for (int index = 0; index < list.size(); index++) {
        same(list.get(index), other.get(index));
      }
    } else if (wanted instanceof Set<?> set && found instanceof Set<?> other) {
      assertEquals(set.size(), other.size());
      same(PAYLOADS.encode(set), PAYLOADS.encode(other));
    } else {
      assertEquals(wanted, found);
    }
  }

  private static @Nullable Object decode(String wire) {
    return PAYLOADS.decode(wire.getBytes(StandardCharsets.UTF_8), Object.class);
  }

  private static String encode(@Nullable Object value) {
    return new String(PAYLOADS.encode(value), StandardCharsets.UTF_8);
  }

  @TestFactory
  Stream<DynamicTest> writesAndReads() throws Exception {
    return each(
        "both",
        v -> {
          assertEquals(v.get("wire").asText(), encode(build(v.get("value"))));
          JsonNode back = v.has("reads_as") ? v.get("reads_as") : v.get("value");
          same(build(back), decode(v.get("wire").asText()));
        });
  }

  @TestFactory
  Stream<DynamicTest> reads() throws Exception {
    return each("reads", v -> same(build(v.get("value")), decode(v.get("wire").asText())));
  }

  @TestFactory
  Stream<DynamicTest> refusesToRead() throws Exception {
    return each(
        "refused",
        v -> {
          byte[] data =
              v.has("wire_hex")
                  ? HexFormat.of().parseHex(v.get("wire_hex").asText())
                  : v.get("wire").asText().getBytes(StandardCharsets.UTF_8);
          refused(() -> PAYLOADS.decode(data, Object.class));
        });
  }

  @TestFactory
  Stream<DynamicTest> refusesToWrite() throws Exception {
    return each("refused_values", v -> refused(() -> PAYLOADS.encode(build(v.get("value")))));
  }

  private static String refused(org.junit.jupiter.api.function.Executable action) {
    EverstepException error = assertThrows(EverstepException.class, action);
    assertEquals(ErrorCode.PAYLOAD_INVALID, error.code());
    return error.getMessage();
  }

  @TestFactory
  Stream<DynamicTest> errorDocuments() throws Exception {
    return each(
        "errors",
        v -> {
          byte[] data = v.get("wire").asText().getBytes(StandardCharsets.UTF_8);
          String wanted = (v.has("reads_as") ? v.get("reads_as") : v.get("wire")).asText();
          assertEquals(wanted, encode(Failure.read(PAYLOADS, data).document()));
        });
  }

  enum Colour {
    RED
  }

  record Point(int x, double y) {}

  record Line(Point start, Colour colour, Set<String> seen, Optional<Long> length) {}

  @Test
  void javaTypesAreWrittenAsWhatTheyHold() {
    Line line = new Line(new Point(1, 2.5), Colour.RED, Set.of("b", "a"), Optional.of(7L));
    String wire =
        "{\"start\":{\"x\":1,\"y\":2.5},\"colour\":\"RED\",\"seen\":{\"$es\":\"set\",\"v\":[\"a\",\"b\"]},\"length\":7}";
    assertEquals(wire, encode(line));
    assertEquals(line, PAYLOADS.decode(wire.getBytes(StandardCharsets.UTF_8), Line.class));
    assertEquals("\"PT86400.0015S\"", encode(Duration.ofDays(1).plusNanos(1_500_000)));
    assertEquals("{\"$es\":\"map\",\"v\":[[\"RED\",1]]}", encode(Map.of(Colour.RED, 1)));
  }

  /** Every reader keeps the last of them. */
  @Test
  void aMapWithTwoKeysThatAreWrittenAlikeIsRefused() {
    Map<Object, String> map = new LinkedHashMap<>(Map.of(1, "a", 1L, "b"));
    assertEquals(2, map.size());
    refused(() -> PAYLOADS.encode(map));
    refused(() -> PAYLOADS.encode(List.of(Map.of("in", map))));
    map.remove(1L);
    assertEquals("{\"$es\":\"map\",\"v\":[[1,\"a\"]]}", encode(map));
  }

  /** A key is written by itself, into its place. */
  @Test
  void keysAreWrittenOnceAndNestedAsDeepAsTheirPlaceAllows() {
    Map<Object, Integer> map = new LinkedHashMap<>();
    map.put("\u00e9\"[{\\", 1);
    map.put(List.of("[[", 2), 3);
    assertEquals("{\"$es\":\"map\",\"v\":[[\"\u00e9\\\"[{\\\\\",1],[[\"[[\",2],3]]}", encode(map));
    assertEquals(map, PAYLOADS.decode(PAYLOADS.encode(map), Object.class));
    // Each is 3 levels: at 2^n this would not end.
    Object nested = 1;
    for (int level = 0; level < 42; level++) {
      nested = Map.of(nested, 1);
    }
    assertEquals(nested, PAYLOADS.decode(PAYLOADS.encode(nested), Object.class));
    Map<Object, Integer> deeper = Map.of(nested, 1);
    refused(() -> PAYLOADS.encode(deeper));
  }

  @Test
  void aTaggedMapIsReadIntoTheMapThatIsAskedFor() {
    byte[] wire = PAYLOADS.encode(new TreeMap<>(Map.of(2, "b", 1, "a")));
    Object back = PAYLOADS.decode(wire, new TypeRef<TreeMap<Integer, String>>() {}.type());
    assertEquals(new TreeMap<>(Map.of(1, "a", 2, "b")), back);
  }

  @Test
  void aCycleIsRefused() {
    List<Object> cycle = new ArrayList<>();
    cycle.add(cycle);
    refused(() -> PAYLOADS.encode(cycle));
    Map<String, Object> map = new HashMap<>();
    map.put("self", map);
    refused(() -> PAYLOADS.encode(map));
  }

  @Test
  void aTypedReadIsChecked() {
    refused(() -> PAYLOADS.decode("\"3\"".getBytes(StandardCharsets.UTF_8), Integer.class));
    refused(() -> PAYLOADS.decode("1.5".getBytes(StandardCharsets.UTF_8), Integer.class));
    assertEquals(3.0, PAYLOADS.decode("3".getBytes(StandardCharsets.UTF_8), Double.class));
  }

  @Test
  void aDoubleSurvivesEveryPrinting() {
    Random random = new Random(7);
    for (int round = 0; round < 20_000; round++) {
      double value = Double.longBitsToDouble(random.nextLong());
      Object back = PAYLOADS.decode(PAYLOADS.encode(List.of(value)), double[].class);
      assertEquals(value, ((double[]) back)[0]);
    }
  }
}
