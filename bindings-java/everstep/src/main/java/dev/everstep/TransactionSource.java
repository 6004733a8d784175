package dev.everstep;

import java.sql.Connection;
import javax.sql.DataSource;

/**
 * Where the transactions of transactional steps come from, on the engine's own PostgreSQL database.
 *
 * @param <T> what a step's function works with
 */
@FunctionalInterface
public interface TransactionSource<T> {
  /**
   * Begins a transaction.
   *
   * @return the transaction, which the engine commits or rolls back and closes
   * @throws Exception when there is none to be had
   */
  OpenTransaction<T> open() throws Exception;

  /**
   * Plain JDBC, for example a HikariCP pool.
   *
   * @param dataSource the data source
   * @return the source
   */
  static TransactionSource<Connection> jdbc(DataSource dataSource) {
    Options.required(dataSource, "the data source");
    return () -> OpenTransaction.jdbc(dataSource.getConnection());
  }

  /**
   * Plain JDBC, at an isolation level.
   *
   * @param dataSource the data source
   * @param isolation of each transaction; without it, as the data source has it
   * @return the source
   */
  static TransactionSource<Connection> jdbc(DataSource dataSource, Isolation isolation) {
    Options.required(dataSource, "the data source");
    Options.required(isolation, "the isolation");
    return () -> {
      OpenTransaction<Connection> opened = OpenTransaction.jdbc(dataSource.getConnection());
      isolation.begin(opened);
      return opened;
    };
  }
}
