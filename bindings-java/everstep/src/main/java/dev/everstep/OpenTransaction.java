package dev.everstep;

import java.sql.Connection;
import java.sql.SQLException;

/**
 * One open transaction on the user's own driver.
 *
 * @param <T> what a step's function works with
 */
public interface OpenTransaction<T> extends AutoCloseable {
  /**
   * What the step's function gets.
   *
   * @return the connection, session or context
   */
  T given();

  /**
   * The connection the transaction is on: the engine's last statement runs there.
   *
   * @return the connection
   * @throws Exception when it is gone
   */
  Connection connection() throws Exception;

  /**
   * Writes out what a mapper has not yet written.
   *
   * @throws Exception when a statement is refused
   */
  default void flush() throws Exception {}

  /**
   * Commits.
   *
   * @throws Exception when the database refuses, or its answer was lost
   */
  void commit() throws Exception;

  /**
   * Whether it is known that nothing was committed, asked when {@link #commit} has thrown. Else the
   * error counts as the step's only where the database itself has refused; after any other the
   * engine asks the database which it was.
   *
   * @return whether it was rolled back for certain
   */
  default boolean isRolledBack() {
    return false;
  }

  /**
   * Rolls back.
   *
   * @throws Exception when the connection is gone
   */
  void rollback() throws Exception;

  /**
   * Gives the connection back.
   *
   * @throws SQLException when it is gone
   */
  @Override
  void close() throws SQLException;

  /**
   * A transaction on a connection that is closed with it.
   *
   * @param connection the connection
   * @return the transaction
   * @throws SQLException when it does not begin
   */
  static OpenTransaction<Connection> jdbc(Connection connection) throws SQLException {
    return new JdbcTransaction(connection);
  }

  /**
   * The connection as a step's function may have it, for sources of other libraries: {@code
   * commit}, {@code rollback} without a savepoint, {@code setAutoCommit(true)} and {@code abort}
   * are refused with {@code transaction_failed}, and {@code close} does nothing. Otherwise the
   * function could commit its rows before their record. Statements and metadata lead back to it;
   * {@code unwrap} gives the interfaces of a driver, not its connection.
   *
   * @param connection the transaction's connection
   * @return what the function gets
   */
  static Connection lent(Connection connection) {
    return LentConnection.of(connection);
  }
}
