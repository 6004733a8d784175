package dev.everstep;

import java.lang.reflect.Type;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** What a program declares before launch: workflows. */
abstract sealed class Declarations extends DriverDeclarations permits Everstep {

  Declarations(Engine engine) {
    super(engine);
  }

  /**
   * Registers a workflow class; its types are read from the interface, its name from {@link
   * WorkflowName}, or from the class.
   *
   * @param workflow the workflow, with what it needs injected
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> register(
      Workflow<I, O> workflow) {
    WorkflowClass types = WorkflowClass.of(workflow);
    return declareWorkflow(
        types.name(), types.input(), types.output(), workflow, new WorkflowOptions());
  }

  /**
   * Registers a workflow class; its types are read from the interface, its name from {@link
   * WorkflowName}, or from the class.
   *
   * @param workflow the workflow, with what it needs injected
   * @param options retries, deadline and so on
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> register(
      Workflow<I, O> workflow, Consumer<WorkflowOptions> options) {
    WorkflowClass types = WorkflowClass.of(workflow);
    return declareWorkflow(
        types.name(), types.input(), types.output(), workflow, workflowOptions(options));
  }

  /**
   * Registers a workflow written as a lambda.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param workflow what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> workflow(
      String name, Class<I> input, Class<O> output, Workflow<I, O> workflow) {
    return declareWorkflow(
        name, Types.of(input), Types.of(output), workflow, new WorkflowOptions());
  }

  /**
   * Registers a workflow written as a lambda, with options.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param workflow what it does
   * @param options retries, deadline and so on
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> workflow(
      String name,
      Class<I> input,
      Class<O> output,
      Workflow<I, O> workflow,
      Consumer<WorkflowOptions> options) {
    return declareWorkflow(
        name, Types.of(input), Types.of(output), workflow, workflowOptions(options));
  }

  /**
   * Registers a workflow written as a lambda.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param workflow what it does
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> workflow(
      String name, TypeRef<I> input, TypeRef<O> output, Workflow<I, O> workflow) {
    return declareWorkflow(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        workflow,
        new WorkflowOptions());
  }

  /**
   * Registers a workflow written as a lambda, with options.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param workflow what it does
   * @param options retries, deadline and so on
   * @param <I> type of its input
   * @param <O> type of its output
   * @return what starts its runs
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> WorkflowRef<I, O> workflow(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      Workflow<I, O> workflow,
      Consumer<WorkflowOptions> options) {
    return declareWorkflow(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        workflow,
        workflowOptions(options));
  }

  private static WorkflowOptions workflowOptions(Consumer<WorkflowOptions> configurer) {
    WorkflowOptions out = new WorkflowOptions();
    Options.required(configurer, "options").accept(out);
    return out;
  }

  @SuppressWarnings("unchecked")
  private <I extends @Nullable Object, O extends @Nullable Object>
      WorkflowRef<I, O> declareWorkflow(
          String name, Type input, Type output, Workflow<I, O> workflow, WorkflowOptions options) {
    Options.required(workflow, "the workflow");
    checkTypes("workflow", name, input, output);
    Registered.Body body = (ctx, step, value) -> workflow.run(ctx, (I) value);
    Registered registered =
        new Registered(Registered.WORKFLOW, name, input, output, options, true, body);
    engine.register(registered);
    return new WorkflowRef<>(engine, registered);
  }
}
