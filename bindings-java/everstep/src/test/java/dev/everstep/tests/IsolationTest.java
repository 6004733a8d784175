package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.Isolation;
import dev.everstep.TransactionSource;
import dev.everstep.jdbi.JdbiTransactions;
import dev.everstep.jooq.JooqTransactions;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.List;
import java.util.function.Function;
import javax.sql.DataSource;
import org.jdbi.v3.core.Jdbi;
import org.jooq.SQLDialect;
import org.jooq.impl.DSL;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

/** An isolation level is the first statement of a transaction, which a database can refuse. */
final class IsolationTest {
  /** A connection whose database has no room for another statement. */
  private static final class Full implements InvocationHandler {
    private final SQLException refusal = new SQLException("no room", "53100");
    private boolean autoCommit = true;
    private boolean failed;
    private boolean closed;

    @Override
    public @Nullable Object invoke(Object proxy, Method method, Object @Nullable [] arguments)
        throws SQLException {
      switch (method.getName()) {
        case "createStatement" -> {
          failed = true;
          throw refusal;
        }
        case "rollback" -> {
          if (autoCommit) {
            throw new SQLException("no transaction");
          }
          failed = false;
          return null;
        }
        case "setAutoCommit" -> {
          if (failed) {
            throw new SQLException("in a failed transaction");
          }
          autoCommit = (boolean) arguments[0];
          return null;
        }
        case "close" -> {
          closed = true;
          return null;
        }
        case "getAutoCommit" -> {
          return autoCommit;
        }
        case "equals" -> {
          return proxy == arguments[0];
        }
        case "hashCode" -> {
          return System.identityHashCode(proxy);
        }
        default -> {
          return method.getReturnType() == boolean.class ? closed : null;
        }
      }
    }
  }

  private static <T> T made(Class<T> type, InvocationHandler handler) {
    Class<?>[] types = {type};
    return type.cast(Proxy.newProxyInstance(IsolationTest.class.getClassLoader(), types, handler));
  }

  @Test
  void whatTheDatabaseRefusesIsItsOwnErrorAndTheConnectionIsGivenBackAsItWas() {
    List<Function<Connection, TransactionSource<?>>> sources =
        List.of(
            connection ->
                TransactionSource.jdbc(
                    made(DataSource.class, (proxy, method, arguments) -> connection),
                    Isolation.SERIALIZABLE),
            connection ->
                JooqTransactions.of(
                    DSL.using(connection, SQLDialect.POSTGRES), Isolation.SERIALIZABLE),
            connection ->
                JdbiTransactions.of(Jdbi.create(() -> connection), Isolation.SERIALIZABLE));
    for (int index = 0; index < sources.size(); index++) {
      Full full = new Full();
      TransactionSource<?> source = sources.get(index).apply(made(Connection.class, full));
      assertSame(full.refusal, assertThrows(SQLException.class, source::open));
      assertEquals(0, full.refusal.getSuppressed().length);
      assertFalse(full.failed);
      assertTrue(full.autoCommit);
      // jOOQ was given a connection, which stays the program's.
      assertEquals(index != 1, full.closed);
    }
  }
}
