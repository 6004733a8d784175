package dev.everstep;

import java.lang.reflect.Type;
import java.sql.Connection;
import java.util.function.Consumer;
import javax.sql.DataSource;
import org.jspecify.annotations.Nullable;

/** What a program declares before launch: steps that are transactions on the user's own driver. */
abstract sealed class DriverDeclarations extends TransactionDeclarations permits Declarations {

  DriverDeclarations(Engine engine) {
    super(engine);
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
    return on(name, source, Types.of(input), Types.of(output), told(function), new StepOptions());
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
    return on(
        name, source, Types.of(input), Types.of(output), told(function), stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, told about its attempt.
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
      StepRef<I, O> transactionWithContext(
          String name,
          TransactionSource<T> source,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<T, I, O> function) {
    return on(name, source, Types.of(input), Types.of(output), function, new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, told about its attempt, with its policy.
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
      StepRef<I, O> transactionWithContext(
          String name,
          TransactionSource<T> source,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<T, I, O> function,
          Consumer<StepOptions> options) {
    return on(name, source, Types.of(input), Types.of(output), function, stepOptions(options));
  }

  /**
   * {@code transactionWithContext} under its first name. Here a reference to an overloaded method
   * is ambiguous, a lambda is not.
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
    return transactionWithContext(name, source, input, output, function, options);
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
    return on(name, source, Types.of(input), Types.of(output), told(function), new StepOptions());
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
    return on(
        name, source, Types.of(input), Types.of(output), told(function), stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, told about its attempt.
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
      StepRef<I, O> transactionWithContext(
          String name,
          TransactionSource<T> source,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<T, I, O> function) {
    return on(name, source, Types.of(input), Types.of(output), function, new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on the user's own
   * driver, told about its attempt, with its policy.
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
      StepRef<I, O> transactionWithContext(
          String name,
          TransactionSource<T> source,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<T, I, O> function,
          Consumer<StepOptions> options) {
    return on(name, source, Types.of(input), Types.of(output), function, stepOptions(options));
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
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        told(function),
        new StepOptions());
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
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        told(function),
        stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection,
   * told about its attempt.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          DataSource dataSource,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<Connection, I, O> function) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        function,
        new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection,
   * told about its attempt, with its policy.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          DataSource dataSource,
          Class<I> input,
          Class<O> output,
          ContextTransactionFunction<Connection, I, O> function,
          Consumer<StepOptions> options) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        function,
        stepOptions(options));
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
      TypeRef<I> input,
      TypeRef<O> output,
      TransactionFunction<Connection, I, O> function) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        told(function),
        new StepOptions());
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
      TypeRef<I> input,
      TypeRef<O> output,
      TransactionFunction<Connection, I, O> function,
      Consumer<StepOptions> options) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        told(function),
        stepOptions(options));
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection,
   * told about its attempt.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          DataSource dataSource,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<Connection, I, O> function) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        function,
        new StepOptions());
  }

  /**
   * Declares a step whose rows and checkpoint commit together or not at all, on a JDBC connection,
   * told about its attempt, with its policy.
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
  public final <I extends @Nullable Object, O extends @Nullable Object>
      StepRef<I, O> transactionWithContext(
          String name,
          DataSource dataSource,
          TypeRef<I> input,
          TypeRef<O> output,
          ContextTransactionFunction<Connection, I, O> function,
          Consumer<StepOptions> options) {
    return on(
        name,
        TransactionSource.jdbc(dataSource),
        Types.of(input),
        Types.of(output),
        function,
        stepOptions(options));
  }

  private <T, I extends @Nullable Object, O extends @Nullable Object> StepRef<I, O> on(
      String name,
      TransactionSource<T> source,
      Type input,
      Type output,
      ContextTransactionFunction<T, I, O> function,
      StepOptions options) {
    Options.required(function, "the transaction's function");
    Options.required(source, "the source");
    engine.requirePostgres(name);
    return declareTransaction(name, input, output, options, Transactions.on(source, function));
  }
}
