package dev.everstep;

import com.fasterxml.jackson.databind.json.JsonMapper;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * How an engine is made. What is not said is resolved by the engine: environment variables ({@code
 * EVERSTEP_DATABASE_URL}, {@code EVERSTEP_ENV}), then defaults.
 */
public final class EngineOptions {
  final Map<String, Object> config = new LinkedHashMap<>();
  Consumer<JsonMapper.Builder> jackson = builder -> {};
  @Nullable Boolean virtualThreads;
  Duration exitGrace = Duration.ofSeconds(2);
  boolean closesAtExit = true;

  EngineOptions() {
    config.put("language", "java");
  }

  private EngineOptions set(String key, @Nullable Object value) {
    config.put(key, Options.required(value, key));
    return this;
  }

  /**
   * The database.
   *
   * @param url {@code postgresql://user:password@host/name} or {@code sqlite:FILE}
   * @return this
   */
  public EngineOptions database(String url) {
    return set("database", url);
  }

  /**
   * The PostgreSQL schema of the engine's tables.
   *
   * @param name default {@code everstep}
   * @return this
   */
  public EngineOptions schema(String name) {
    return set("schema", name);
  }

  /**
   * Isolates applications in one database.
   *
   * @param name default {@code default}
   * @return this
   */
  public EngineOptions namespace(String name) {
    return set("namespace", name);
  }

  /**
   * The environment; a database stamped with another one is held.
   *
   * @param name default {@code EVERSTEP_ENV}, else {@code development}
   * @return this
   */
  public EngineOptions environment(String name) {
    return set("environment", name);
  }

  /**
   * The application's build.
   *
   * @param build any text
   * @return this
   */
  public EngineOptions version(String build) {
    return set("version", build);
  }

  /**
   * Only starts, inspects and awaits runs; claims nothing.
   *
   * @return this
   */
  public EngineOptions client() {
    return set("role", "client");
  }

  /**
   * Starts runs for others and runs nothing itself.
   *
   * @return this
   */
  public EngineOptions starter() {
    return set("role", "starter");
  }

  /**
   * The queues this worker serves.
   *
   * @param names default all; none: only runs without a queue
   * @return this
   */
  public EngineOptions queues(String... names) {
    for (String name : Options.required(names, "queues")) {
      Options.required(name, "a queue's name");
    }
    return set("queues", List.of(names));
  }

  /**
   * How many runs execute at once.
   *
   * @param count default 100, with platform threads 8 a core
   * @return this
   */
  public EngineOptions slots(int count) {
    return set("slots", count);
  }

  /**
   * After so long without a beat others take this worker's runs over.
   *
   * @param time default 10 s
   * @return this
   */
  public EngineOptions lease(Duration time) {
    return set("lease_ms", Times.milliseconds(time));
  }

  /**
   * How long calls from outside a run wait for a database that does not answer.
   *
   * @param time default 5 min
   * @return this
   */
  public EngineOptions outageBudget(Duration time) {
    return set("outage_budget_ms", Times.milliseconds(time));
  }

  /**
   * The limit of one encoded value.
   *
   * @param bytes default 16 MiB
   * @return this
   */
  public EngineOptions maxPayload(int bytes) {
    return set("max_payload", bytes);
  }

  /**
   * Whether launch brings the schema up to date.
   *
   * @param on default: on SQLite and on an empty database
   * @return this
   */
  public EngineOptions autoMigrate(boolean on) {
    return set("auto_migrate", on);
  }

  /**
   * For tests: runs are released at every wait and replayed before every step.
   *
   * @return this
   */
  public EngineOptions replayAlways() {
    return set("replay", "always");
  }

  /**
   * A further key of the configuration table in {@code core/docs/protocol.md}.
   *
   * @param key the key
   * @param value a text, number, boolean or list
   * @return this
   */
  public EngineOptions setting(String key, Object value) {
    return set(Options.required(key, "the setting's key"), value);
  }

  /**
   * What has been said of a key so far, for who lays defaults under it.
   *
   * @param key a key of the configuration table
   * @return the value, or null where nothing was said
   */
  public @Nullable Object setting(String key) {
    return config.get(Options.required(key, "the setting's key"));
  }

  /**
   * Changes the Jackson mapper values go through, for example to add a module.
   *
   * @param configurer called once
   * @return this
   */
  public EngineOptions jackson(Consumer<JsonMapper.Builder> configurer) {
    jackson = Options.required(configurer, "jackson");
    return this;
  }

  /**
   * Whether runs get virtual threads.
   *
   * @param on default: where the runtime has them (21 and later)
   * @return this
   */
  public EngineOptions virtualThreads(boolean on) {
    virtualThreads = on;
    return this;
  }

  /**
   * How long an exit of the virtual machine without {@link Everstep#close()} (a SIGTERM, a {@code
   * System.exit}) lets runs finish or park before the rest is handed over.
   *
   * @param time default 2 s; zero: hands over at once
   * @return this
   */
  public EngineOptions exitGrace(Duration time) {
    exitGrace = Options.required(time, "exitGrace");
    return this;
  }

  /**
   * Whether an exit of the virtual machine closes the engine. A program (or a container) that calls
   * {@link Everstep#close()} from a shutdown hook of its own turns this off: hooks run at the same
   * time, and the shorter grace would win.
   *
   * @param on default true
   * @return this
   */
  public EngineOptions closeAtExit(boolean on) {
    closesAtExit = on;
    return this;
  }
}
