package dev.everstep;

import java.sql.SQLException;
import java.sql.SQLNonTransientConnectionException;
import java.sql.SQLRecoverableException;
import java.sql.SQLTransientConnectionException;
import org.jspecify.annotations.Nullable;

/** What an error of the user's driver says, whoever wrapped it. */
final class SqlStates {
  private static final int DEPTH = 8;

  private SqlStates() {}

  private static @Nullable SQLException sqlOf(Throwable error) {
    Throwable at = error;
    for (int depth = 0; at != null && depth < DEPTH; depth++, at = Failure.causeIn(at)) {
      if (at instanceof SQLException sql) {
        return sql;
      }
    }
    return null;
  }

  private static String state(Throwable error) {
    SQLException sql = sqlOf(error);
    return sql == null || sql.getSQLState() == null ? "" : sql.getSQLState();
  }

  /** The transaction may run again: the database broke it off in favour of another. */
  static boolean isConflict(Throwable error) {
    String state = state(error);
    return state.equals("40001") || state.equals("40P01");
  }

  /**
   * The connection went before COMMIT was asked for, or there was none to be had: nothing is
   * stored.
   */
  static boolean isLost(Throwable error) {
    SQLException sql = sqlOf(error);
    if (sql == null) {
      return false;
    }
    String state = state(error);
    return sql instanceof SQLTransientConnectionException
        || sql instanceof SQLNonTransientConnectionException
        || sql instanceof SQLRecoverableException
        || state.startsWith("08")
        || state.startsWith("53")
        || state.startsWith("57P");
  }

  /** The server answered, and the answer is no: the transaction is known to be rolled back. */
  static boolean isRefusal(Throwable error) {
    String state = state(error);
    return !state.isEmpty()
        && !state.startsWith("08")
        && !state.startsWith("57")
        && !state.startsWith("53")
        && !state.startsWith("XX");
  }

  /** The guard found no tables of the engine: this is another database. */
  static boolean knowsNoEngine(Throwable error) {
    String state = state(error);
    return state.equals("42P01") || state.equals("3F000");
  }
}
