package dev.everstep;

import java.sql.Connection;
import java.sql.SQLException;

/** A transaction on one JDBC connection. */
final class JdbcTransaction implements OpenTransaction<Connection> {
  private final Connection connection;
  private final boolean autoCommit;

  JdbcTransaction(Connection connection) throws SQLException {
    this.connection = connection;
    try {
      autoCommit = connection.getAutoCommit();
      connection.setAutoCommit(false);
    } catch (SQLException error) {
      connection.close();
      throw error;
    }
  }

  @Override
  public Connection given() {
    return OpenTransaction.lent(connection);
  }

  @Override
  public Connection connection() {
    return connection;
  }

  @Override
  public void commit() throws SQLException {
    connection.commit();
  }

  @Override
  public void rollback() throws SQLException {
    connection.rollback();
  }

  @Override
  public void close() throws SQLException {
    try {
      if (autoCommit && !connection.isClosed()) {
        connection.setAutoCommit(true);
      }
    } finally {
      connection.close();
    }
  }
}
