package dev.everstep;

import java.lang.reflect.Type;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** A function as the engine knows it: name, kind, types, how to run it, with which defaults. */
final class Registered {
  /** Runs it once. */
  @FunctionalInterface
  interface Body {
    @Nullable Object run(WorkflowContext ctx, StepContext step, @Nullable Object input)
        throws Exception;
  }

  static final String WORKFLOW = "workflow";
  static final String STEP = "step";

  final String kind;
  final String name;
  final Type input;
  final Type output;
  final ErrorPolicy<?> declared;
  final @Nullable List<@Nullable Object> policy;

  /**
   * Whether the engine is told of it: a transaction or an inline step cannot be started by itself.
   */
  final boolean startable;

  /** What runs; null where the function is known by name only, and of a transaction. */
  final @Nullable Body body;

  /** Where it was declared, for messages. */
  String where = "";

  Registered(
      String kind,
      String name,
      Type input,
      Type output,
      ErrorPolicy<?> declared,
      boolean startable,
      @Nullable Body body) {
    this.kind = kind;
    this.name = name;
    this.input = input;
    this.output = output;
    this.declared = declared;
    this.policy = declared.policy();
    this.startable = startable;
    this.body = body;
  }

  /** A workflow known by name only. */
  static Registered foreign(String name, Type output) {
    return foreign(name, Object.class, output);
  }

  static Registered foreign(String name, Type input, Type output) {
    return new Registered(WORKFLOW, name, input, output, new WorkflowOptions(), false, null);
  }

  boolean isForeign() {
    return body == null && kind.equals(WORKFLOW);
  }

  /** The same step with what one call says laid over what was declared. */
  Registered with(CallOptions call) {
    StepOptions merged = new StepOptions();
    merged.lay(declared);
    merged.lay(call);
    return new Registered(kind, name, input, output, merged, startable, body);
  }

  @Nullable String version() {
    return declared instanceof WorkflowOptions workflow ? workflow.version : null;
  }

  /** What the engine is told beyond the name: the defaults of runs started here. */
  Map<String, @Nullable Object> registration() {
    Map<String, @Nullable Object> out = new LinkedHashMap<>();
    Map<String, @Nullable Object> retry = declared.policyByName();
    if (!retry.isEmpty()) {
      out.put("retry", retry);
    }
    if (declared instanceof WorkflowOptions workflow) {
      put(out, "deadline_ms", Options.milliseconds(workflow.deadline));
      put(out, "on_finish", workflow.onFinish);
      put(out, "label", workflow.label);
    }
    return out;
  }

  private static void put(Map<String, @Nullable Object> out, String key, @Nullable Object value) {
    if (value != null) {
      out.put(key, value);
    }
  }
}
