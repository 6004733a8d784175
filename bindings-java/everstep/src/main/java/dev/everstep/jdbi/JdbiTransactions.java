package dev.everstep.jdbi;

import dev.everstep.Isolation;
import dev.everstep.OpenTransaction;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Objects;
import org.jdbi.v3.core.Handle;
import org.jdbi.v3.core.Jdbi;
import org.jspecify.annotations.Nullable;

/** Transactional steps on JDBI. */
public final class JdbiTransactions {
  private JdbiTransactions() {}

  /**
   * Transactions on handles of their own. {@code commit} and {@code rollback} of such a handle are
   * refused: its rows commit with their record.
   *
   * @param jdbi on the engine's database; a plugin is installed that does nothing to other handles
   * @return the source
   */
  public static TransactionSource<Handle> of(Jdbi jdbi) {
    return source(jdbi, null);
  }

  /**
   * The same, at an isolation level.
   *
   * @param jdbi on the engine's database; a plugin is installed that does nothing to other handles
   * @param isolation of each transaction; without it, as the connections have it
   * @return the source
   */
  public static TransactionSource<Handle> of(Jdbi jdbi, Isolation isolation) {
    return source(jdbi, Objects.requireNonNull(isolation, "isolation"));
  }

  private static TransactionSource<Handle> source(Jdbi jdbi, @Nullable Isolation isolation) {
    Objects.requireNonNull(jdbi, "jdbi");
    jdbi.installPlugin(new GatePlugin());
    return () -> {
      Gate gate = new Gate();
      Handle handle = GatePlugin.opened(jdbi, gate);
      Open opened = begun(handle, gate);
      if (isolation != null) {
        isolation.begin(opened);
      }
      gate.lend();
      return opened;
    };
  }

  private static Open begun(Handle handle, Gate gate) throws SQLException {
    try {
      Open opened = new Open(handle, gate, handle.getConnection().getAutoCommit());
      handle.begin();
      return opened;
    } catch (SQLException | RuntimeException error) {
      try {
        handle.close();
      } catch (RuntimeException also) {
        error.addSuppressed(also);
      }
      throw error;
    }
  }

  private record Open(Handle given, Gate gate, boolean autoCommit)
      implements OpenTransaction<Handle> {
    @Override
    public Connection connection() {
      return gate.connection();
    }

    @Override
    public void commit() {
      gate.open();
      given.commit();
    }

    @Override
    public void rollback() {
      gate.open();
      given.rollback();
    }

    @Override
    public void close() throws SQLException {
      gate.open();
      try {
        // A commit that was refused has left it as it was.
        if (!gate.connection().isClosed()) {
          gate.connection().setAutoCommit(autoCommit);
        }
      } finally {
        given.close();
      }
    }
  }
}
