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
  final RetryOptions<?> declared;
  final @Nullable List<@Nullable Object> policy;

  /**
   * Whether the engine is told of it: a transaction or an inline step cannot be started by itself.
   */
  final boolean startable;

  /** What runs; null where the function is known by name only. */
  final @Nullable Body body;

  Registered(
      String kind,
      String name,
      Type input,
      Type output,
      RetryOptions<?> declared,
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
    return new Registered(WORKFLOW, name, Object.class, output, new WorkflowOptions(), false, null);
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
