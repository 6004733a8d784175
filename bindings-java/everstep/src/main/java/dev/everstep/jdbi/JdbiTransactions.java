package dev.everstep.jdbi;

import dev.everstep.OpenTransaction;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.util.Objects;
import org.jdbi.v3.core.Handle;
import org.jdbi.v3.core.Jdbi;

/** Transactional steps on JDBI. */
public final class JdbiTransactions {
  private JdbiTransactions() {}

  /**
   * Transactions on handles of their own.
   *
   * @param jdbi on the engine's database
   * @return the source
   */
  public static TransactionSource<Handle> of(Jdbi jdbi) {
    Objects.requireNonNull(jdbi, "jdbi");
    return () -> {
      Handle handle = jdbi.open();
      try {
        handle.begin();
      } catch (RuntimeException error) {
        handle.close();
        throw error;
      }
      return new Open(handle);
    };
  }

  private record Open(Handle given) implements OpenTransaction<Handle> {
    @Override
    public Connection connection() {
      return given.getConnection();
    }

    @Override
    public void commit() {
      given.commit();
    }

    @Override
    public void rollback() {
      given.rollback();
    }

    @Override
    public void close() {
      given.close();
    }
  }
}
