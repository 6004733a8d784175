package dev.everstep;

import java.lang.reflect.Type;
import java.sql.Connection;
import java.util.function.Consumer;
import javax.sql.DataSource;
import org.jspecify.annotations.Nullable;

/** What a program declares before launch: workflows, and steps that are transactions. */
abstract sealed class Declarations extends StepDeclarations permits Everstep {

  Declarations(Engine engine) {
    super(engine);
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      Class<I> input,
      Class<O> output,
      TransactionFunction<Transaction, I, O> function) {
    Options.required(function, "the transaction's function");

    return declareTransaction(
        name,
        Types.of(input),
        Types.of(output),
        new StepOptions(),
        Transactions.<I, O>own((step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      Class<I> input,
      Class<O> output,
      TransactionFunction<Transaction, I, O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");

    return declareTransaction(
        name,
        Types.of(input),
        Types.of(output),
        stepOptions(options),
        Transactions.<I, O>own((step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      TransactionFunction<Transaction, I, O> function) {
    Options.required(function, "the transaction's function");

    return declareTransaction(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        new StepOptions(),
        Transactions.<I, O>own((step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, with its policy.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      TypeRef<I> input,
      TypeRef<O> output,
      TransactionFunction<Transaction, I, O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");

    return declareTransaction(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        stepOptions(options),
        Transactions.<I, O>own((step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver.
   *
   * @param name its name: what rows refer to
   * @param source where the transactions come from, on the engine's database
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <T> what the function works with
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <T, I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transaction(
          String name,
          TransactionSource<T> source,
          Class<I> input,
          Class<O> output,
          TransactionFunction<T, I, O> function) {
    Options.required(function, "the transaction's function");
    engine.requirePostgres(name);
    return declareTransaction(
        name,
        Types.of(input),
        Types.of(output),
        new StepOptions(),
        Transactions.<T, I, O>on(
            Options.required(source, "the source"), (step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, with its policy.
   *
   * @param name its name: what rows refer to
   * @param source where the transactions come from, on the engine's database
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <T> what the function works with
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <T, I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transaction(
          String name,
          TransactionSource<T> source,
          Class<I> input,
          Class<O> output,
          TransactionFunction<T, I, O> function,
          Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");
    engine.requirePostgres(name);
    return declareTransaction(
        name,
        Types.of(input),
        Types.of(output),
        stepOptions(options),
        Transactions.<T, I, O>on(
            Options.required(source, "the source"), (step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver.
   *
   * @param name its name: what rows refer to
   * @param source where the transactions come from, on the engine's database
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <T> what the function works with
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <T, I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transaction(
          String name,
          TransactionSource<T> source,
          TypeRef<I> input,
          TypeRef<O> output,
          TransactionFunction<T, I, O> function) {
    Options.required(function, "the transaction's function");
    engine.requirePostgres(name);
    return declareTransaction(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        new StepOptions(),
        Transactions.<T, I, O>on(
            Options.required(source, "the source"), (step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, with its policy.
   *
   * @param name its name: what rows refer to
   * @param source where the transactions come from, on the engine's database
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <T> what the function works with
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <T, I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transaction(
          String name,
          TransactionSource<T> source,
          TypeRef<I> input,
          TypeRef<O> output,
          TransactionFunction<T, I, O> function,
          Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");
    engine.requirePostgres(name);
    return declareTransaction(
        name,
        Options.required(input, "the input's type").type(),
        Options.required(output, "the output's type").type(),
        stepOptions(options),
        Transactions.<T, I, O>on(
            Options.required(source, "the source"), (step, tx, value) -> function.run(tx, value)));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection.
   *
   * @param name its name: what rows refer to
   * @param dataSource a data source on the engine's database, for example a HikariCP pool
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      DataSource dataSource,
      Class<I> input,
      Class<O> output,
      TransactionFunction<Connection, I, O> function) {
    return transaction(name, TransactionSource.jdbc(dataSource), input, output, function);
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection,
   * with its policy.
   *
   * @param name its name: what rows refer to
   * @param dataSource a data source on the engine's database, for example a HikariCP pool
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      DataSource dataSource,
      Class<I> input,
      Class<O> output,
      TransactionFunction<Connection, I, O> function,
      Consumer<StepOptions> options) {
    return transaction(name, TransactionSource.jdbc(dataSource), input, output, function, options);
  }

  /**
   * Declares a transactional step that is told about its attempt, on the engine's own connection.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> transaction(
      String name,
      Class<I> input,
      Class<O> output,
      ContextTransactionFunction<Transaction, I, O> function,
      Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");
    return declareTransaction(
        name, Types.of(input), Types.of(output), stepOptions(options), Transactions.own(function));
  }

  /**
   * Declares a transactional step that is told about its attempt, on the user's own driver.
   *
   * @param name its name: what rows refer to
   * @param source where the transactions come from, on the engine's database
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param options retries, timeout
   * @param <T> what the function works with
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <T, I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transaction(
          String name,
          TransactionSource<T> source,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<T, I, O> function,
          Consumer<StepOptions> options) {
    Options.required(function, "the transaction's function");
    engine.requirePostgres(name);
    return declareTransaction(
        name,
        Types.of(input),
        Types.of(output),
        stepOptions(options),
        Transactions.<T, I, O>on(Options.required(source, "the source"), function));
  }

  private <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> declareTransaction(
      String name, Type input, Type output, StepOptions options, StepCalls.Attempt attempt) {
    checkTypes("transaction", name, input, output);
    if (options.atMostOnce) {
      throw Options.invalid(
          "transaction "
              + name
              + ": atMostOnce is for steps; a transaction takes effect exactly once, leave it out");
    }
    Registered registered =
        new Registered(Registered.STEP, name, input, output, options, false, null);
    engine.register(registered);
    return new StepRef<>(engine, registered, Ops.KIND_TRANSACTION, attempt);
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
