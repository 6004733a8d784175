package dev.everstep;

import java.lang.reflect.Type;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * What a program declares before launch: steps that are transactions on the engine's connection.
 */
abstract sealed class TransactionDeclarations extends StepDeclarations permits DriverDeclarations {

  TransactionDeclarations(Engine engine) {
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
    return own(name, Types.of(input), Types.of(output), told(function), new StepOptions());
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
    return own(name, Types.of(input), Types.of(output), told(function), stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, told about its attempt.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<Transaction, I, O> function) {
    return own(name, Types.of(input), Types.of(output), function, new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, told about its attempt, with its policy.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<Transaction, I, O> function,
          Consumer<StepOptions> options) {
    return own(name, Types.of(input), Types.of(output), function, stepOptions(options));
  }

  /**
   * {@code transactionWithContext} under its first name. Here a reference to an overloaded method
   * is ambiguous, a lambda is not.
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
    return transactionWithContext(name, input, output, function, options);
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
    return own(name, Types.of(input), Types.of(output), told(function), new StepOptions());
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
    return own(name, Types.of(input), Types.of(output), told(function), stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, told about its attempt.
   *
   * @param name its name: what rows refer to
   * @param input type of its input
   * @param output type of its output
   * @param function what it does in the transaction
   * @param <I> type of its input
   * @param <O> type of its output
   * @return the step
   */
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<Transaction, I, O> function) {
    return own(name, Types.of(input), Types.of(output), function, new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the engine's own
   * connection, told about its attempt, with its policy.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<Transaction, I, O> function,
          Consumer<StepOptions> options) {
    return own(name, Types.of(input), Types.of(output), function, stepOptions(options));
  }

  private <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> own(
      String name,
      Type input,
      Type output,
      ContextTransactionFunction<Transaction, I, O> function,
      StepOptions options) {
    Options.required(function, "the transaction's function");
    return declareTransaction(name, input, output, options, Transactions.own(function));
  }

  static <T, I extends @Nullable Object, O extends @Nullable Object>
      ContextTransactionFunction<T, I, O> told(TransactionFunction<T, I, O> function) {
    Options.required(function, "the transaction's function");
    return (step, tx, value) -> function.run(tx, value);
  }

  final <I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> declareTransaction(
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
}
