package conformance;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.ser.std.ToStringSerializer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import dev.everstep.Branch;
import dev.everstep.Dedup;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Finished;
import dev.everstep.Run;
import dev.everstep.RunOptions;
import dev.everstep.RunState;
import dev.everstep.StepContext;
import dev.everstep.StepOptions;
import dev.everstep.StepRef;
import dev.everstep.TransactionSource;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowContext;
import dev.everstep.WorkflowRef;
import java.io.*;
import java.math.BigDecimal;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.time.*;
import java.util.*;
import java.util.function.Consumer;
import java.util.logging.*;
import java.util.stream.IntStream;

/** The conformance worker: an interpreter of the programs of tests/README.md on the public API, driven by JSON lines on stdin. */
@SuppressWarnings("StatementSwitchToExpressionSwitch")
final class Worker {
  record Program(String id, List<Object> program) {}
  record Move(int account, int amount) {}
  record Sample(@JsonProperty("int") long number, BigDecimal dec, byte[] bytes, Instant time, LocalDate date, UUID uuid, String none, String text) {}
  record Here(String run, String place, Map<String, Object> o) {}
  interface Execute { void run(String sql, Object... values) throws Exception; }
  static final class Flaky extends RuntimeException {
    private static final long serialVersionUID = 1;
    final int attempt;
    Flaky(String message, int attempt) { super(message); this.attempt = attempt; }
  }
  static final JsonMapper JSON = JsonMapper.builder().build();
  static final JsonMapper SNAKE = JsonMapper.builder().propertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
      .addModule(new SimpleModule().addSerializer(Instant.class, ToStringSerializer.instance).addSerializer(Duration.class, ToStringSerializer.instance)
          .addSerializer(ByteBuffer.class, ToStringSerializer.instance)).build();
  static final Sample SAMPLE = new Sample((1L << 60) + 1, new BigDecimal("12.50"), new byte[] {0, -1}, Instant.parse("2026-01-02T03:04:05.25Z"), LocalDate.of(2026, 1, 2),
      UUID.fromString("0192f0c1-2345-7abc-8def-0123456789ab"), null, "a\0ü");
  static final String BUILD = System.getenv().getOrDefault("EVERSTEP_SUITE_BUILD", "v1");
  static final ThreadLocal<Here> HERE = ThreadLocal.withInitial(() -> new Here("job", "0", Map.of()));
  static final List<String> SAID = Collections.synchronizedList(new ArrayList<>());
  final Map<String, Object> config;
  final OutputStream log;
  final Everstep app;
  final Map<String, StepRef<Object, Object>> steps = new HashMap<>();
  final StepRef<Move, Integer> pay;
  final StepRef<Void, Sample> sample;
  StepRef<Move, Integer> payDriver;
  final WorkflowRef<Program, List<Object>> interpret;

  @SuppressWarnings("unchecked")
  Worker(String text) throws Exception {
    config = JSON.readValue(text, new TypeReference<>() {});
    log = new FileOutputStream((String) config.get("log"), true);
    // What the scenarios count on where nothing is said; with platform threads the default depends on the machine.
    app = Everstep.open(o -> { o.slots(100); ((Map<String, Object>) config.get("engine")).forEach((k, v) -> { if (v != null) o.setting(k, v); }); });
    app.error("flaky", Flaky.class);
    Map<String, Consumer<StepOptions>> policies = Map.of("thrice", o -> o.maxAttempts(3).initialInterval(ms(1)), "five", o -> o.maxAttempts(5).initialInterval(ms(1)),
        "backoff", o -> o.maxAttempts(3).initialInterval(ms(2500)).jitter(false), "brief", o -> o.timeout(ms(200)), "once", StepOptions::atMostOnce,
        "work", o -> {}, "charge", o -> {}, "ship", o -> {});
    policies.forEach((name, policy) -> steps.put(name, app.step(name, Object.class, Object.class, this::effect, policy)));
    sample = app.step("sample", Void.class, Sample.class, nothing -> SAMPLE);
    pay = app.transaction("pay", Move.class, Integer.class, (step, tx, move) -> move(step, tx::execute, n -> "$" + n, move), o -> {});
    if (config.get("store").equals("postgres")) {
      TransactionSource<Connection> driver = TransactionSource.jdbc(pool(URI.create((String) config.get("user_database"))));
      payDriver = app.transaction("pay_driver", driver, Move.class, Integer.class, (step, db, move) -> move(step, (sql, values) -> {
        try (PreparedStatement statement = db.prepareStatement(sql)) {
          for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
          statement.execute();
        }
      }, n -> "?", move), o -> o.maxAttempts(5).initialInterval(ms(10)));
    }
    interpret = app.workflow("interpret", TypeRef.of(Program.class), new TypeRef<>() {}, (ctx, in) -> play(ctx, in.id, in.program, ""));
    app.workflow("report", Finished.class, Boolean.class, (ctx, in) -> { note("finished", in.run(), "-", in.state(), 0); return true; });
    if (!"other".equals(System.getenv("EVERSTEP_SUITE_WITHOUT")))
      app.workflow("other", TypeRef.of(Program.class), new TypeRef<List<Object>>() {}, (ctx, in) -> play(ctx, in.id, in.program, ""));
  }

  static HikariDataSource pool(URI url) {
    HikariConfig c = new HikariConfig();
    String[] user = url.getUserInfo().split(":", 2);
    c.setJdbcUrl("jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath());
    c.setUsername(user[0]);
    c.setPassword(user.length > 1 ? user[1] : "");
    c.setMaximumPoolSize(4); c.setMinimumIdle(0); c.setInitializationFailTimeout(-1); c.setConnectionTimeout(5000);
    return new HikariDataSource(c);
  }

  static Duration ms(Object value) { return value == null ? null : Duration.ofNanos((long) (((Number) value).doubleValue() * 1e6)); }

  void note(String kind, String run, String place, Object detail, int attempt) {
    long pid = ProcessHandle.current().pid();
    byte[] line = (kind + " " + run + " " + place + " " + attempt + " " + pid + " " + System.nanoTime() + " " + detail + "\n").getBytes(StandardCharsets.UTF_8);
    synchronized (log) { try { log.write(line); } catch (IOException error) { throw new UncheckedIOException(error); } }
  }

  Path gate(Object name) { return Path.of((String) config.get("gates"), name.toString()); }
  void passing(Object name) throws InterruptedException { while (!Files.exists(gate(name))) Thread.sleep(20); }

  @SuppressWarnings("unchecked")
  Object effect(StepContext step, Object value) throws Exception {
    Here here = HERE.get();
    Map<String, Object> o = here.run.equals("job") && value instanceof Map<?, ?> m ? (Map<String, Object>) m : here.o;
    note("begin", here.run, here.place, o.get("limited") instanceof List<?> l ? "limit " + l.get(0) + " " + l.get(1) : "-", step.attempt());
    if (o.containsKey("show_key")) note("value", here.run, here.place, step.idempotencyKey(), step.attempt());
    double wait = number(o, "ms") + Math.random() * number(o, "jitter_ms") + number(o, "busy");
    if (wait > 0) Thread.sleep((long) wait, (int) (wait % 1 * 1e6));
    if ("always".equals(o.get("crash")) || (o.containsKey("crash") && !Files.exists(gate("crashed-" + here.run)))) {
      Files.write(gate("crashed-" + here.run), new byte[0]);
      new ProcessBuilder("sh", "-c", "kill -9 " + ProcessHandle.current().pid()).start().waitFor();
    }
    if (o.containsKey("hold")) passing(o.get("hold"));
    if (step.attempt() <= number(o, "fail") || (o.containsKey("fail_until") && !Files.exists(gate(o.get("fail_until"))))) throw flaky(step);
    note("end", here.run, here.place, "-", step.attempt());
    return value;
  }

  static Flaky flaky(StepContext step) { return new Flaky("flaky attempt " + step.attempt(), step.attempt()); }
  static double number(Map<String, Object> o, String key) { return o.get(key) instanceof Number n ? n.doubleValue() : 0; }

  int move(StepContext step, Execute tx, java.util.function.IntFunction<String> mark, Move move) throws Exception {
    Here here = HERE.get();
    note("begin", here.run, here.place, "tx", step.attempt());
    tx.run("insert into moved (run, step, account, amount) values (" + mark.apply(1) + ", " + mark.apply(2) + ", " + mark.apply(3) + ", " + mark.apply(4) + ")", here.run, here.place, move.account, move.amount);
    tx.run("update accounts set balance = balance + " + mark.apply(1) + " where id = " + mark.apply(2), move.amount, move.account);
    if (here.o.containsKey("hold")) passing(here.o.get("hold"));
    if (here.o.get("fail") != null && !Boolean.FALSE.equals(here.o.get("fail"))) throw flaky(step);
    note("end", here.run, here.place, "-", step.attempt());
    return move.amount;
  }

  List<Object> play(WorkflowContext ctx, String run, List<?> program, String place) throws Exception {
    List<Object> out = new ArrayList<>();
    for (int i = 0; i < program.size(); i++) out.add(one(ctx, run, (List<?>) program.get(i), place + i));
    return out;
  }

  <I, O> O recorded(WorkflowContext ctx, String run, String place, Map<String, Object> o, StepRef<I, O> step, I value, String detail) {
    HERE.set(new Here(run, place, o));
    O out;
    try { out = step.call(ctx, value); }
    catch (EverstepException | Flaky error) { note("nack", run, place, "-", 0); throw error; }
    note("ack", run, place, detail, 0);
    return out;
  }

  @SuppressWarnings("unchecked")
  Object one(WorkflowContext ctx, String run, List<?> in, String place) throws Exception {
    String verb = (String) in.get(0);
    Map<String, Object> o = in.size() > 2 && in.get(in.size() - 1) instanceof Map<?, ?> m && !verb.equals("build") ? (Map<String, Object>) m : Map.of();
    switch (verb) {
      case "step": return recorded(ctx, run, place, o, steps.get(o.getOrDefault("as", "work")), in.get(1), "-");
      case "tx": return recorded(ctx, run, place, o, o.containsKey("driver") ? payDriver : pay, new Move((int) in.get(1), (int) in.get(2)), "tx");
      case "sample": {
        Sample got = recorded(ctx, run, place, o, sample, null, "-");
        boolean rest = new Sample(got.number, got.dec, SAMPLE.bytes, got.time, got.date, got.uuid, got.none, got.text).equals(SAMPLE);
        return rest && Arrays.equals(got.bytes, SAMPLE.bytes);
      }
      case "sleep": case "until":
        note("sleep", run, place, "-", 0);
        if (verb.equals("sleep")) ctx.sleep(ms(in.get(1))); else ctx.sleepUntil(ctx.now().plus(ms(in.get(1))));
        note("woke", run, place, in.get(1), 0); return in.get(1);
      case "all": case "any": case "race": {
        List<Branch<Object>> branches = new ArrayList<>();
        for (int i = 1; i < in.size(); i++) {
          int n = i - 1;
          branches.add(c -> play(c, run, (List<?>) in.get(n + 1), place + "/" + n + "."));
        }
        return verb.equals("all") ? ctx.all(branches) : verb.equals("any") ? ctx.any(branches) : ctx.race(branches);
      }
      case "map": {
        List<?> items = (List<?>) in.get(1);
        return ctx.map(IntStream.range(0, items.size()).boxed().toList(), (c, n) -> recorded(c, run, place + "/" + n, o, steps.get("work"), items.get(n), "-"));
      }
      case "child": {
        String id = (String) o.getOrDefault("id", run + "/" + place);
        Run<List<Object>> child = interpret.start(ctx, new Program(id, (List<Object>) in.get(1)), x -> { x.id(id); if ("abandon".equals(o.get("policy"))) x.abandonOnClose(); });
        return Boolean.FALSE.equals(o.get("wait")) ? child.key() : child.result(ctx);
      }
      case "send":
        while (true) {
          try { ctx.send((String) in.get(1), (String) in.get(2), in.get(3)); return true; }
          catch (EverstepException error) {
            if (!error.code().text().equals("run_not_found") || !(o.containsKey("wait") || o.containsKey("optional"))) throw error;
            if (o.containsKey("optional")) return false;
            ctx.sleep(ms(20));
          }
        }
      case "receive": { Object got = ctx.receive((String) in.get(1), Object.class, ms(in.get(2))).orElse(null); note("received", run, place, got == null ? "None" : got, 0); return got == null ? "timeout" : got; }
      case "set": ctx.setEvent((String) in.get(1), in.get(2)); return true;
      case "event": return ctx.getEvent((String) in.get(1), (String) in.get(2), Object.class, ms(in.get(3))).orElse("timeout");
      case "value": note("value", run, place, in.get(1).equals("uuid") ? ctx.uuid() : in.get(1).equals("now") ? ctx.now().toString().replaceFirst("0+Z$", "Z") : new BigDecimal(Double.toString(ctx.random())).toPlainString(), 0); return in.get(1);
      case "patch": return play(ctx, run, (List<?>) in.get(ctx.patch((String) in.get(1)) ? 2 : 3), place + ".");
      case "build": return play(ctx, run, (List<?>) ((Map<?, ?>) in.get(1)).get(BUILD), place + ".");
      case "try":
        try { return play(ctx, run, (List<?>) in.get(1), place + "."); }
        catch (EverstepException error) { return Map.of("error", error.code().text()); }
        catch (Flaky error) { return Map.of("error", "flaky", "message", error.getMessage(), "attempt", error.attempt); }
      case "finally":
        try { return play(ctx, run, (List<?>) in.get(1), place + "."); }
        finally { ctx.shielded(c -> play(c, run, (List<?>) in.get(2), place + ".f")); }
      case "repeat": { List<Object> out = new ArrayList<>(); for (int i = 0; i < (int) in.get(1); i++) out.add(play(ctx, run, (List<?>) in.get(2), place + "." + i + ".")); return out; }
      case "log": ctx.log().info((String) in.get(1)); return in.get(1);
      default: throw new IllegalArgumentException("unknown instruction " + in);
    }
  }

  @SuppressWarnings("unchecked")
  static Consumer<RunOptions> options(Object given, String id) {
    Map<String, Object> g = given == null ? Map.of() : (Map<String, Object>) given;
    return o -> {
      if (id != null) o.id(id);
      g.forEach((k, v) -> {
        switch (k) {
          case "queue" -> o.queue((String) v); case "label" -> o.label((String) v); case "priority" -> o.priority((int) v); case "cost" -> o.cost((int) v);
          case "delay_ms" -> o.delay(ms(v)); case "expires_ms" -> o.expires(ms(v)); case "deadline_ms" -> o.deadline(ms(v)); case "version" -> o.version((String) v);
          case "attributes" -> o.attributes((Map<String, Object>) v); case "fairness_key" -> o.fairnessKey((String) v); case "reuse_purged" -> o.reusePurged();
          case "on_finish" -> o.onFinish((String) v);
          case "dedup_key" -> { Dedup d = g.containsKey("dedup_ttl_ms") ? Dedup.within((String) v, ms(g.get("dedup_ttl_ms"))) : "queued".equals(g.get("dedup_scope")) ? Dedup.whileQueued((String) v) : Dedup.untilDone((String) v);
            o.dedup("reject".equals(g.get("dedup_policy")) ? d.reject() : "replace".equals(g.get("dedup_policy")) ? d.replace() : d); }
          case "dedup_scope", "dedup_policy", "dedup_ttl_ms" -> {}
          default -> throw new IllegalArgumentException("no option " + k);
        }
      });
    };
  }

  @SuppressWarnings("unchecked")
  Object execute(String op, String id, Map<String, Object> c) throws Exception {
    switch (op) {
      case "launch": app.launch(); return String.join("\n", List.copyOf(SAID));
      case "start": {
        String name = Objects.requireNonNullElse((String) c.get("workflow"), "interpret");
        WorkflowRef<Program, List<Object>> target = name.equals("interpret") ? interpret : app.reference(name, TypeRef.of(Program.class), new TypeRef<>() {});
        Run<List<Object>> run = target.start(new Program(id, (List<Object>) c.get("program")), options(c.get("options"), id));
        note("accepted", run.key().replace("-", ""), "-", "-", 0);
        return Map.of("run", run.key(), "attached", run.attached());
      }
      case "start_step": return steps.get(c.getOrDefault("as", "work")).start(c.get("value"), o -> o.id(id)).key();
      case "start_many": {
        List<Program> inputs = IntStream.range(0, (int) c.get("count")).mapToObj(i -> new Program(id + "-" + i, (List<Object>) c.get("program"))).toList();
        List<Run<List<Object>>> runs = interpret.startMany(inputs, Program::id, options(c.get("options"), null));
        for (Run<?> run : runs) note("accepted", run.key().replace("-", ""), "-", "-", 0);
        return runs.size();
      }
      case "result": {
        Object value = c.get("timeout_ms") == null ? app.run(id).result() : app.run(id).result(ms(c.get("timeout_ms")));
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(JSON.writeValueAsBytes(value));
        note("result", id, "-", HexFormat.of().formatHex(digest, 0, 8), 0);
        return value;
      }
      case "status": return SNAKE.valueToTree(app.run(id).status());
      case "steps": return SNAKE.valueToTree(app.run(id).steps());
      case "cancel": return app.run(id).cancel("suite", (String) c.get("why"));
      case "resume": return app.run(id).resume("suite");
      case "retry": return app.run(id).retry("suite");
      case "rewind": return app.run(id).rewind((String) c.getOrDefault("branch", ""), ((Number) c.get("seq")).longValue(), "suite", (boolean) c.getOrDefault("new_effects", false));
      case "send": app.run(id).send((String) c.get("topic"), c.get("message"), (String) c.get("idempotency_key")); return null;
      case "event": return app.run(id).getEvent((String) c.get("key"), Object.class, ms(c.get("timeout_ms"))).orElse("timeout");
      case "queue": return app.putQueue((String) c.get("name"), o -> c.forEach((k, v) -> {
        switch (k) { case "limit" -> o.limit((int) v); case "worker_limit" -> o.workerLimit((int) v); case "key_limit" -> o.keyLimit((int) v);
          case "paused" -> { if ((boolean) v) o.paused(); } case "hold" -> { if ((boolean) v) o.hold(); } default -> {} } })).name();
      case "list": {
        var page = app.runs(f -> c.forEach((k, v) -> {
          if (v == null) return;
          switch (k) { case "states" -> f.states((v instanceof String s ? List.of(s) : (List<String>) v).stream().map(RunState::of).toArray(RunState[]::new)); case "workflow" -> f.workflow((String) v);
            case "queue" -> f.queue((String) v); case "attribute" -> f.attribute((String) ((List<?>) v).get(0), ((List<?>) v).get(1));
            case "after" -> f.after((String) v); case "limit" -> f.limit((int) v); default -> throw new IllegalArgumentException(k); } }));
        Map<String, Object> out = new HashMap<>(Map.of("runs", page.items().stream().map(r -> r.key()).toList()));
        out.put("next", page.next());
        return out;
      }
      case "adopt": app.adopt(); return null;
      case "close": app.close(ms(c.get("deadline_ms"))); return null;
      default: throw new IllegalArgumentException(op);
    }
  }

  void answer(Map<String, Object> command) {
    Map<String, Object> out = new HashMap<>();
    out.put("n", command.remove("n"));
    try { out.put("ok", execute((String) command.remove("op"), (String) command.remove("id"), command)); }
    catch (Throwable error) {
      String code = error instanceof EverstepException known ? known.code().text() : error.getClass().getSimpleName();
      if (!(error instanceof EverstepException)) error.printStackTrace();
      out.put("error", Map.of("code", code, "message", String.valueOf(error)));
    }
    synchronized (System.out) {
      try { System.out.write((JSON.writeValueAsString(out) + "\n").getBytes(StandardCharsets.UTF_8)); System.out.flush(); }
      catch (IOException error) { throw new UncheckedIOException(error); }
    }
  }

  public static void main(String[] arguments) throws Exception {
    Worker[] worker = {null};
    Logger.getLogger("everstep").addHandler(new Handler() {
      @Override public void publish(LogRecord record) {
        SAID.add(record.getMessage());
        if (record.getLoggerName().equals("everstep.workflow")) worker[0].note("line", "-", "-", record.getMessage(), 0);
      }
      @Override public void flush() {}
      @Override public void close() {}
    });
    worker[0] = new Worker(arguments[0]);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      Map<String, Object> command = JSON.readValue(line, new TypeReference<>() {});
      Thread thread = new Thread(() -> worker[0].answer(command));
      boolean last = "close".equals(command.get("op"));
      thread.setDaemon(true);
      thread.start();
      if (last) { thread.join(); return; }
    }
  }
}
