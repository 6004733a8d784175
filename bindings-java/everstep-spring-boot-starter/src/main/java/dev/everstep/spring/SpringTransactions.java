package dev.everstep.spring;

import dev.everstep.OpenTransaction;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Objects;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.DataSourceUtils;
import org.springframework.transaction.PlatformTransactionManager;
import org.springframework.transaction.TransactionDefinition;
import org.springframework.transaction.TransactionStatus;
import org.springframework.transaction.support.DefaultTransactionDefinition;

/**
 * Transactional steps in Spring's transactions: repositories, {@code JdbcTemplate} and
 * {@code @Transactional} beans called by the step take part, and commit with its checkpoint.
 */
public final class SpringTransactions {
  private SpringTransactions() {}

  /**
   * Transactions of a transaction manager.
   *
   * @param manager the transaction manager of {@code dataSource}
   * @param dataSource a data source on the engine's database
   * @return the source
   */
  public static TransactionSource<Connection> of(
      PlatformTransactionManager manager, DataSource dataSource) {
    Objects.requireNonNull(manager, "manager");
    Objects.requireNonNull(dataSource, "dataSource");
    return () -> {
      // Never part of a caller's: the checkpoint must commit with exactly this step's rows.
      TransactionStatus status =
          manager.getTransaction(
              new DefaultTransactionDefinition(TransactionDefinition.PROPAGATION_REQUIRES_NEW));
      try {
        return new Open(manager, status, dataSource, DataSourceUtils.getConnection(dataSource));
      } catch (RuntimeException error) {
        manager.rollback(status);
        throw error;
      }
    };
  }

  private record Open(
      PlatformTransactionManager manager,
      TransactionStatus status,
      DataSource dataSource,
      Connection connection)
      implements OpenTransaction<Connection> {
    @Override
    public Connection given() {
      return OpenTransaction.lent(connection);
    }

    @Override
    public void flush() {
      status.flush();
    }

    @Override
    public void commit() throws SQLException {
      if (status.isRollbackOnly()) {
        throw new SQLException("a bean has marked this transaction as rollback-only", "25000");
      }
      manager.commit(status);
    }

    @Override
    public void rollback() {
      if (!status.isCompleted()) {
        manager.rollback(status);
      }
    }

    @Override
    public void close() {
      rollback();
      DataSourceUtils.releaseConnection(connection, dataSource);
    }
  }
}
