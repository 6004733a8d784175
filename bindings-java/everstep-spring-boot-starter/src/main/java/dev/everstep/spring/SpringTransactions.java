package dev.everstep.spring;

import dev.everstep.ErrorCode;
import dev.everstep.EverstepException;
import dev.everstep.OpenTransaction;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicInteger;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.DataSourceUtils;
import org.springframework.jdbc.datasource.DelegatingDataSource;
import org.springframework.transaction.PlatformTransactionManager;
import org.springframework.transaction.TransactionDefinition;
import org.springframework.transaction.TransactionStatus;
import org.springframework.transaction.support.DefaultTransactionDefinition;
import org.springframework.transaction.support.ResourceTransactionManager;
import org.springframework.transaction.support.TransactionSynchronization;
import org.springframework.transaction.support.TransactionSynchronizationManager;

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
    return of(manager, dataSource, TransactionDefinition.withDefaults());
  }

  /**
   * Transactions of a transaction manager that are not as it makes them by default.
   *
   * @param manager the transaction manager of {@code dataSource}
   * @param dataSource a data source on the engine's database
   * @param definition isolation, timeout, name; its propagation does not count, for the step's rows
   *     are never part of another transaction
   * @return the source
   */
  public static TransactionSource<Connection> of(
      PlatformTransactionManager manager, DataSource dataSource, TransactionDefinition definition) {
    Objects.requireNonNull(manager, "manager");
    Objects.requireNonNull(dataSource, "dataSource");
    DefaultTransactionDefinition wanted =
        new DefaultTransactionDefinition(Objects.requireNonNull(definition, "definition"));
    // Never part of a caller's: the checkpoint must commit with exactly this step's rows.
    wanted.setPropagationBehavior(TransactionDefinition.PROPAGATION_REQUIRES_NEW);
    return () -> {
      TransactionStatus status = manager.getTransaction(wanted);
      try {
        return opened(manager, status, dataSource);
      } catch (RuntimeException | SQLException error) {
        manager.rollback(status);
        throw error;
      }
    };
  }

  private static Open opened(
      PlatformTransactionManager manager, TransactionStatus status, DataSource dataSource)
      throws SQLException {
    AtomicInteger completion = new AtomicInteger(TransactionSynchronization.STATUS_UNKNOWN);
    if (TransactionSynchronizationManager.isSynchronizationActive()) {
      TransactionSynchronizationManager.registerSynchronization(
          new TransactionSynchronization() {
            @Override
            public void afterCompletion(int how) {
              completion.set(how);
            }
          });
    }
    Connection connection = DataSourceUtils.getConnection(dataSource);
    boolean managed = false;
    try {
      managed = !connection.getAutoCommit() && !isOfAnother(manager, dataSource);
    } finally {
      if (!managed) {
        DataSourceUtils.releaseConnection(connection, dataSource);
      }
    }
    if (!managed) {
      // Each statement would commit by itself, the checkpoint too.
      throw new EverstepException(
          ErrorCode.CONFIG_INVALID,
          "the transaction manager "
              + manager.getClass().getName()
              + " does not manage the data source of this step: give SpringTransactions.of the two"
              + " that belong together");
    }
    return new Open(manager, status, dataSource, connection, completion);
  }

  private static boolean isOfAnother(PlatformTransactionManager manager, DataSource dataSource) {
    return manager instanceof ResourceTransactionManager resources
        && resources.getResourceFactory() instanceof DataSource own
        && target(own) != target(dataSource);
  }

  private static DataSource target(DataSource dataSource) {
    DataSource at = dataSource;
    while (at instanceof DelegatingDataSource delegating
        && delegating.getTargetDataSource() != null) {
      at = delegating.getTargetDataSource();
    }
    return at;
  }

  private record Open(
      PlatformTransactionManager manager,
      TransactionStatus status,
      DataSource dataSource,
      Connection connection,
      AtomicInteger completion)
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

    /** By a listener that threw before the COMMIT, for example. */
    @Override
    public boolean isRolledBack() {
      return completion.get() == TransactionSynchronization.STATUS_ROLLED_BACK;
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
