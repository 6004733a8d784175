package dev.everstep;

import java.lang.reflect.Type;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** What a program declares before launch: steps. */
abstract sealed class StepDeclarations permits TransactionDeclarations {
  final Engine engine;

  StepDeclarations(Engine engine) {
    this.engine = engine;
  }

  static StepOptions stepOptions(Consumer<StepOptions> configurer) {
    StepOptions out = new StepOptions();
    Options.required(configurer, "options").accept(out);
    return out;
  }

  /**
   * Declares a step.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name, Class<I> input, Class<O> output, StepFunction<? super I, ? extends O> function) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Types.of(input),
        Types.of(output),
        (step, value) -> function.run(value),
        new StepOptions());
  }

  /**
   * Declares a step, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param options retries, timeout, at most once
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      Class<I> input,
      Class<O> output,
      StepFunction<? super I, ? extends O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Types.of(input),
        Types.of(output),
        (step, value) -> function.run(value),
        stepOptions(options));
  }

  /**
   * Declares a step.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      StepFunction<? super I, ? extends O> function) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        (step, value) -> function.run(value),
        new StepOptions());
  }

  /**
   * Declares a step, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param options retries, timeout, at most once
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      StepFunction<? super I, ? extends O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        (step, value) -> function.run(value),
        stepOptions(options));
  }

  /**
   * Declares a step, told about its attempt.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      Class<I> input,
      Class<O> output,
      ContextStepFunction<? super I, ? extends O> function) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Types.of(input),
        Types.of(output),
        (step, value) -> function.run(step, value),
        new StepOptions());
  }

  /**
   * Declares a step, told about its attempt, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param options retries, timeout, at most once
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      Class<I> input,
      Class<O> output,
      ContextStepFunction<? super I, ? extends O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Types.of(input),
        Types.of(output),
        (step, value) -> function.run(step, value),
        stepOptions(options));
  }

  /**
   * Declares a step, told about its attempt.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      ContextStepFunction<? super I, ? extends O> function) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        (step, value) -> function.run(step, value),
        new StepOptions());
  }

  /**
   * Declares a step, told about its attempt, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does
   * @param options retries, timeout, at most once
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> step(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      ContextStepFunction<? super I, ? extends O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the step's function");
    return declareStep(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        (step, value) -> function.run(step, value),
        stepOptions(options));
  }

  private <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> declareStep(
      String name,
      Type input,
      Type output,
      ContextStepFunction<I, O> function,
      StepOptions options) {
    checkTypes("step", name, input, output);
    @SuppressWarnings("unchecked")
    Registered.Body body = (ctx, step, value) -> function.run(step, (I) value);
    Registered registered =
        new Registered(Registered.STEP, name, input, output, options, true, body);
    engine.register(registered);
    return new StepRef<>(engine, registered, Ops.KIND_STEP, StepCalls::plain);
  }

  final void checkTypes(String kind, String name, Type input, Type output) {
    Options.required(name, "the name of a " + kind);
    Types.check(engine.payloads, input, "input of " + kind + " " + name);
    Types.check(engine.payloads, output, "output of " + kind + " " + name);
  }
}
