package dev.everstep;

import java.sql.Connection;
import java.sql.SQLException;
import java.sql.Statement;

/** How far a transactional step on the user's own driver is apart from what runs beside it. */
public enum Isolation {
  /** Each statement sees what was committed before it. */
  READ_COMMITTED("read committed"),
  /** Every statement sees what was committed before the first; a conflict runs the step again. */
  REPEATABLE_READ("repeatable read"),
  /** As if one transaction ran after the other; a conflict runs the step again. */
  SERIALIZABLE("serializable");

  private final String sql;

  Isolation(String sql) {
    this.sql = sql;
  }

  /**
   * Sets it for the transaction that begins with this statement, and for no other: the connection
   * goes back to its pool as it was. For sources of other libraries.
   *
   * @param connection a connection without auto-commit, before its first statement
   * @throws SQLException when the statement is refused
   */
  public void begin(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute("set transaction isolation level " + sql);
    }
  }

  /**
   * Sets it for a transaction that has just begun. Where the database refuses, the transaction has
   * ended and its connection is given back as it was. For sources of other libraries.
   *
   * @param transaction the transaction, before its first statement
   * @throws Exception what the database said, whatever the end of the transaction says besides
   */
  public void begin(OpenTransaction<?> transaction) throws Exception {
    try {
      begin(transaction.connection());
    } catch (Exception error) {
      try (transaction) {
        transaction.rollback();
      } catch (Exception also) {
        if (also != error) {
          error.addSuppressed(also);
        }
      }
      throw error;
    }
  }
}
