package dev.everstep;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.PreparedStatement;
import java.sql.Statement;
import org.jspecify.annotations.Nullable;

/**
 * The connection as a step's function gets it. What would end the transaction is not the function's
 * to say: its rows would be committed without the checkpoint, and written again after a crash.
 *
 * <p>What is made of it leads back to it, not to the driver's own connection. Rows are the
 * driver's: they are read far too often for a detour.
 */
final class LentConnection implements InvocationHandler {
  private final Connection connection;

  private LentConnection(Connection connection) {
    this.connection = connection;
  }

  static Connection of(Connection connection) {
    return (Connection) proxy(Connection.class, new LentConnection(connection));
  }

  private static Object proxy(Class<?> type, InvocationHandler handler) {
    ClassLoader loader = type.getClassLoader();
    return Proxy.newProxyInstance(
        loader == null ? LentConnection.class.getClassLoader() : loader,
        new Class<?>[] {type},
        handler);
  }

  @Override
  public @Nullable Object invoke(Object proxy, Method method, Object @Nullable [] arguments)
      throws Throwable {
    boolean bare = arguments == null || arguments.length == 0;
    return switch (method.getName()) {
      case "equals" -> arguments != null && proxy == arguments[0];
      case "hashCode" -> System.identityHashCode(proxy);
      case "close" -> null;
      case "setAutoCommit" -> {
        if (arguments != null && Boolean.FALSE.equals(arguments[0])) {
          yield null;
        }
        throw refused("setAutoCommit(true)");
      }
      case "commit", "abort" -> throw refused(method.getName());
      case "rollback" -> {
        // To a savepoint of its own it may.
        if (bare) {
          throw refused("rollback");
        }
        yield passed(connection, method, arguments);
      }
      case "unwrap" -> unwrapped((Connection) proxy, proxy, connection, method, arguments);
      default -> made((Connection) proxy, passed(connection, method, arguments));
    };
  }

  /** A statement or the metadata, whose {@code getConnection} is the lent one. */
  private record Made(Object target, Connection lent) implements InvocationHandler {
    @Override
    public @Nullable Object invoke(Object proxy, Method method, Object @Nullable [] arguments)
        throws Throwable {
      return switch (method.getName()) {
        case "equals" -> arguments != null && proxy == arguments[0];
        case "hashCode" -> System.identityHashCode(proxy);
        case "getConnection" -> lent;
        case "unwrap" -> unwrapped(lent, proxy, target, method, arguments);
        default -> passed(target, method, arguments);
      };
    }
  }

  private static @Nullable Object made(Connection lent, @Nullable Object result) {
    Class<?> type =
        result instanceof CallableStatement
            ? CallableStatement.class
            : result instanceof PreparedStatement
                ? PreparedStatement.class
                : result instanceof Statement
                    ? Statement.class
                    : result instanceof DatabaseMetaData ? DatabaseMetaData.class : null;
    return type == null || result == null ? result : proxy(type, new Made(result, lent));
  }

  /** The driver's extras (COPY, notifications), without the connection they are a part of. */
  private static @Nullable Object unwrapped(
      Connection lent, Object proxy, Object target, Method method, Object @Nullable [] arguments)
      throws Throwable {
    Class<?> type = arguments == null ? null : (Class<?>) arguments[0];
    if (type != null && type.isInstance(proxy)) {
      return proxy;
    }
    if (type != null && Connection.class.isAssignableFrom(type)) {
      throw refused("unwrap(" + type.getSimpleName() + ".class)");
    }
    Object out = passed(target, method, arguments);
    return type != null && type.isInterface() && out != null
        ? proxy(type, new Made(out, lent))
        : out;
  }

  private static @Nullable Object passed(
      Object target, Method method, Object @Nullable [] arguments) throws Throwable {
    try {
      return method.invoke(target, arguments);
    } catch (InvocationTargetException thrown) {
      throw thrown.getTargetException();
    }
  }

  private static EverstepException refused(String call) {
    return new EverstepException(
        ErrorCode.TRANSACTION_FAILED,
        call
            + " in a transactional step: its transaction ends when the function does, and commits"
            + " with the checkpoint. Throw to roll it back.");
  }
}
