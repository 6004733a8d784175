package dev.everstep.jooq;

import dev.everstep.Isolation;
import dev.everstep.OpenTransaction;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Objects;
import org.jooq.ConnectionProvider;
import org.jooq.DSLContext;
import org.jooq.impl.DSL;
import org.jspecify.annotations.Nullable;

/** Transactional steps on jOOQ. */
public final class JooqTransactions {
  private JooqTransactions() {}

  /**
   * Transactions on connections of a context's provider; the step gets a context on that
   * connection.
   *
   * @param context a context on the engine's database
   * @return the source
   */
  public static TransactionSource<DSLContext> of(DSLContext context) {
    return source(context, null);
  }

  /**
   * The same, at an isolation level.
   *
   * @param context a context on the engine's database
   * @param isolation of each transaction; without it, as the provider's connections have it
   * @return the source
   */
  public static TransactionSource<DSLContext> of(DSLContext context, Isolation isolation) {
    return source(context, Objects.requireNonNull(isolation, "isolation"));
  }

  private static TransactionSource<DSLContext> source(
      DSLContext context, @Nullable Isolation isolation) {
    ConnectionProvider provider =
        Objects.requireNonNull(context, "context").configuration().connectionProvider();
    return () -> {
      Open opened = begun(context, provider);
      if (isolation != null) {
        isolation.begin(opened);
      }
      return opened;
    };
  }

  private static Open begun(DSLContext context, ConnectionProvider provider) throws SQLException {
    Connection connection = Objects.requireNonNull(provider.acquire(), "no connection");
    try {
      // A nested dsl.transaction(..) would commit the step's rows without their record.
      DSLContext given =
          DSL.using(context.configuration().derive(OpenTransaction.lent(connection)));
      Open opened = new Open(provider, connection, connection.getAutoCommit(), given);
      connection.setAutoCommit(false);
      return opened;
    } catch (SQLException | RuntimeException error) {
      // Nobody else has it to give it back.
      provider.release(connection);
      throw error;
    }
  }

  private record Open(
      ConnectionProvider provider, Connection connection, boolean autoCommit, DSLContext given)
      implements OpenTransaction<DSLContext> {
    @Override
    public void commit() throws Exception {
      connection.commit();
    }

    @Override
    public void rollback() throws Exception {
      connection.rollback();
    }

    @Override
    public void close() throws SQLException {
      try {
        if (!connection.isClosed()) {
          connection.setAutoCommit(autoCommit);
        }
      } finally {
        provider.release(connection);
      }
    }
  }
}
