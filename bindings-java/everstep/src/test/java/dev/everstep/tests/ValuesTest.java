package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.annotation.JsonSubTypes;
import com.fasterxml.jackson.annotation.JsonTypeInfo;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.JsonDeserializer;
import com.fasterxml.jackson.databind.annotation.JsonDeserialize;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Run;
import dev.everstep.RunFailed;
import dev.everstep.StepRef;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Values and names on their way through the engine and back. */
@Timeout(60)
final class ValuesTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  static java.util.stream.Stream<TestDatabase> databases() {
    return TestDatabase.all();
  }

  record Series(long[] ids, double[] values, long[][] nested, int[] small, float[] rough) {}

  @ParameterizedTest
  @MethodSource("databases")
  void arraysOfNumbersSurviveAsTheyAre(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      StepRef<Series, Series> same = app.step("same", Series.class, Series.class, in -> in);
      WorkflowRef<Series, Series> work =
          app.workflow("work", Series.class, Series.class, (ctx, in) -> same.call(ctx, in));
      app.launch();
      Series in =
          new Series(
              new long[] {Long.MIN_VALUE, -1, 9007199254740993L, Long.MAX_VALUE},
              new double[] {Double.NaN, -0.0, 1e21, Double.MIN_VALUE, Double.NEGATIVE_INFINITY, 3},
              new long[][] {{}, {9007199254740993L}},
              new int[] {Integer.MIN_VALUE, 0},
              new float[] {0.1f, Float.NaN});
      Series out = work.start(in).result(LONG);
      assertArrayEquals(in.ids, out.ids);
      assertArrayEquals(in.values, out.values);
      assertArrayEquals(in.nested, out.nested);
      assertArrayEquals(in.small, out.small);
      assertArrayEquals(in.rough, out.rough);
    }
  }

  /** A point in time is an instant with its offset in every language; a region is a text. */
  @ParameterizedTest
  @MethodSource("databases")
  void aZonedTimeComesBackWithItsOffsetTheFirstTimeToo(TestDatabase database) {
    ZonedDateTime given =
        ZonedDateTime.of(2026, 10, 25, 2, 30, 0, 1, ZoneId.of("Europe/Berlin"))
            .withLaterOffsetAtOverlap();
    List<ZonedDateTime> seen = new ArrayList<>();
    try (Everstep app = Everstep.open(database::apply)) {
      StepRef<ZonedDateTime, ZonedDateTime> same =
          app.step("same", ZonedDateTime.class, ZonedDateTime.class, in -> in);
      WorkflowRef<ZonedDateTime, ZonedDateTime> work =
          app.workflow(
              "work",
              ZonedDateTime.class,
              ZonedDateTime.class,
              (ctx, in) -> {
                ZonedDateTime first = same.call(ctx, in);
                synchronized (seen) {
                  seen.add(in);
                  seen.add(first);
                }
                ctx.sleep(Duration.ofMillis(1));
                return first;
              });
      app.launch();
      assertEquals(
          given.withZoneSameInstant(ZoneOffset.ofHours(1)), work.start(given).result(LONG));
    }
    for (ZonedDateTime one : seen) {
      assertEquals(ZoneOffset.ofHours(1), one.getZone());
      assertEquals(given.toInstant(), one.toInstant());
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void genericMessagesAndEventsKeepTheirTypes(TestDatabase database) {
    TypeRef<Map<Integer, List<Duration>>> type = new TypeRef<>() {};
    Map<Integer, List<Duration>> value = Map.of(7, List.of(Duration.ofMillis(1500)));
    try (Everstep app = Everstep.open(database::apply)) {
      WorkflowRef<String, Boolean> other =
          app.workflow(
              "other",
              String.class,
              Boolean.class,
              (ctx, run) -> {
                Optional<Map<Integer, List<Duration>>> event =
                    ctx.getEvent(app.run(run), "e", type, LONG);
                ctx.send(run, "t", event.orElseThrow());
                return event.get().equals(value);
              });
      WorkflowRef<String, Boolean> work =
          app.workflow(
              "work",
              String.class,
              Boolean.class,
              (ctx, in) -> {
                ctx.setEvent("e", value);
                return ctx.receive("t", type).get(7).equals(value.get(7));
              });
      app.launch();
      Run<Boolean> run = work.start("x", o -> o.id("it"));
      assertEquals(value, run.getEvent("e", type, LONG).orElseThrow());
      assertEquals(true, other.start("it").result(LONG));
      assertEquals(true, run.result(LONG));
    }
  }

  /** Java writes a question mark for half a pair: the id of another run. */
  @ParameterizedTest
  @MethodSource("databases")
  void aTextWithoutUtf8FormIsNoName(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      WorkflowRef<String, String> work =
          app.workflow("work", String.class, String.class, (ctx, in) -> in);
      app.launch();
      Run<String> run = work.start("x", o -> o.id("a\ud83d\ude00"));
      List<Executable> calls =
          List.of(
              () -> work.start("x", o -> o.id("a\ud83d")),
              () -> app.run("a\ude00"),
              () -> work.start("x", o -> o.queue("\ud83d")),
              () -> work.start("x", o -> o.attributes(Map.of("k", "\ud83d"))),
              () -> run.send("\ud83d", "x"),
              () -> run.getEvent("\ud83d", String.class, LONG),
              () -> app.reference("\ud83d", String.class, String.class).start("x"));
      for (Executable call : calls) {
        assertEquals(ErrorCode.ID_INVALID, assertThrows(EverstepException.class, call).code());
      }
      assertEquals("x", run.result(LONG));
    }
  }

  @ParameterizedTest
  @MethodSource("databases")
  void startManyKeepsTheIdsItWasGiven(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply);
        Everstep another = Everstep.open(TestDatabase.sqlite()::apply)) {
      WorkflowRef<Integer, Integer> work =
          app.workflow("work", Integer.class, Integer.class, (ctx, n) -> n);
      WorkflowRef<Integer, Integer> foreign =
          another.workflow("foreign", Integer.class, Integer.class, (ctx, n) -> n);
      WorkflowRef<Integer, String> confused =
          app.workflow(
              "confused",
              Integer.class,
              String.class,
              (ctx, n) -> {
                try {
                  return foreign.start(ctx, n).key();
                } catch (EverstepException error) {
                  return error.code().text();
                }
              });
      app.launch();
      List<Run<Integer>> runs = work.startMany(List.of(1, 2), n -> "id-" + n, o -> {});
      assertEquals(List.of("id-1", "id-2"), runs.stream().map(run -> run.id()).toList());
      assertEquals(ErrorCode.OUTSIDE_RUN.text(), confused.start(1).result(LONG));
    }
  }

  enum Colour {
    RED
  }

  record Account(String owner, Colour colour, int balance, Instant since, List<UUID> ids) {
    Account {
      if ("nobody".equals(owner)) {
        throw new IllegalArgumentException("hunter2 is nobody");
      }
    }
  }

  static final class Broken {
    public String getSecret() {
      return List.of("hunter2").stream()
          .filter(String::isEmpty)
          .findAny()
          .orElseThrow(() -> new IllegalStateException("hunter2 is not to be read"));
    }
  }

  /** These texts end in rows, lists and logs. */
  @ParameterizedTest
  @MethodSource("databases")
  void noErrorQuotesAValue(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      app.workflow("account", Account.class, Account.class, (ctx, in) -> in);
      app.workflow("number", Integer.class, Integer.class, (ctx, in) -> in);
      app.workflow("broken", Integer.class, Object.class, (ctx, in) -> new Broken());
      app.launch();
      WorkflowRef<Map<String, Object>, Object> account =
          app.reference("account", new TypeRef<>() {}, TypeRef.of(Object.class));
      WorkflowRef<String, Object> number = app.reference("number", String.class, Object.class);
      WorkflowRef<Integer, Object> broken = app.reference("broken", Integer.class, Object.class);
      List<Run<Object>> runs =
          List.of(
              account.start(Map.of("colour", "hunter2")),
              account.start(Map.of("balance", "hunter2")),
              account.start(Map.of("since", "hunter2")),
              account.start(Map.of("ids", List.of("hunter2"))),
              account.start(Map.of("ids", "hunter2")),
              account.start(Map.of("owner", "nobody", "balance", 1)),
              number.start("hunter2"),
              broken.start(1));
      for (Run<Object> run : runs) {
        RunFailed failed = assertThrows(RunFailed.class, () -> run.result(LONG));
        assertEquals("PayloadInvalid", run.status().errorType());
        String said = failed + " " + failed.getCause() + " " + run.status().errorMessage();
        assertFalse(said.contains("hunter2"), said);
      }
      RunFailed colour = assertThrows(RunFailed.class, () -> runs.get(0).result(LONG));
      assertTrue(colour.getMessage().contains("Colour (at .colour)"), colour.getMessage());
    }
  }

  @JsonTypeInfo(use = JsonTypeInfo.Id.NAME)
  @JsonSubTypes({
    @JsonSubTypes.Type(value = Circle.class, name = "circle"),
    @JsonSubTypes.Type(value = Square.class, name = "square")
  })
  interface Shape {}

  record Circle(int radius) implements Shape {}

  record Square(int side) implements Shape {}

  record Leaf<T>(List<T> items, T first) {}

  private static <T> void declare(Everstep app, String name, TypeRef<T> type) {
    StepRef<T, T> same = app.step(name, type, type, in -> in);
    app.workflow(
        "w-" + name,
        type,
        type,
        (ctx, in) -> {
          T out = same.call(ctx, in);
          return ctx.step("inline", type, step -> out);
        });
  }

  /** A list's class says nothing of its elements: the declared type has to. */
  @ParameterizedTest
  @MethodSource("databases")
  void subtypesInsideOfGenericTypesAreToldApart(TestDatabase database) {
    Circle circle = new Circle(1);
    Square square = new Square(2);
    TypeRef<List<Shape>> list = new TypeRef<>() {};
    TypeRef<Set<Shape>> set = new TypeRef<>() {};
    TypeRef<Map<String, Shape>> map = new TypeRef<>() {};
    TypeRef<Map<Integer, Shape>> numbered = new TypeRef<>() {};
    TypeRef<Optional<Shape>> optional = new TypeRef<>() {};
    TypeRef<Leaf<Shape>> leaf = new TypeRef<>() {};
    try (Everstep app = Everstep.open(database::apply)) {
      Map<TypeRef<?>, Object> values =
          Map.of(
              list, List.of(circle, square),
              set, Set.of(circle, square),
              map, Map.of("a", circle),
              numbered, Map.of(1, square),
              optional, Optional.of(circle),
              leaf, new Leaf<Shape>(List.of(square), circle));
      declare(app, "list", list);
      declare(app, "set", set);
      declare(app, "map", map);
      declare(app, "numbered", numbered);
      declare(app, "optional", optional);
      declare(app, "leaf", leaf);
      app.launch();
      Map<String, TypeRef<?>> types =
          Map.of(
              "list",
              list,
              "set",
              set,
              "map",
              map,
              "numbered",
              numbered,
              "optional",
              optional,
              "leaf",
              leaf);
      types.forEach((name, type) -> assertSurvives(app, name, type, values.get(type)));
    }
  }

  @SuppressWarnings("unchecked")
  private static <T> void assertSurvives(Everstep app, String name, TypeRef<T> type, Object value) {
    WorkflowRef<T, T> work = app.reference("w-" + name, type, type);
    assertEquals(value, work.start((T) value).result(LONG), name);
  }

  /** Reads nothing. */
  static final class Unreadable extends JsonDeserializer<Odd> {
    @Override
    public Odd deserialize(JsonParser in, DeserializationContext context) {
      throw new IllegalStateException("no more");
    }
  }

  @JsonDeserialize(using = Unreadable.class)
  record Odd(int n) {}

  /** In every attempt: it was given back, and taken again, without end. */
  @ParameterizedTest
  @MethodSource("databases")
  void anInputWhoseReaderThrowsFailsTheJob(TestDatabase database) {
    try (Everstep app = Everstep.open(database::apply)) {
      StepRef<Odd, String> job = app.step("job", Odd.class, String.class, in -> "read");
      app.launch();
      Run<String> run = job.start(new Odd(1));
      assertThrows(RunFailed.class, () -> run.result(LONG));
      assertEquals("IllegalStateException", run.status().errorType());
    }
  }
}
