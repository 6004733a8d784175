package dev.everstep;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import org.jspecify.annotations.Nullable;

/**
 * The connection as a step's function gets it. What would end the transaction is not the function's
 * to say: its rows would be committed without the checkpoint, and written again after a crash.
 */
final class LentConnection implements InvocationHandler {
  private final Connection connection;

  private LentConnection(Connection connection) {
    this.connection = connection;
  }

  static Connection of(Connection connection) {
    return (Connection)
        Proxy.newProxyInstance(
            LentConnection.class.getClassLoader(),
            new Class<?>[] {Connection.class},
            new LentConnection(connection));
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
        yield passed(method, arguments);
      }
      default -> passed(method, arguments);
    };
  }

  private @Nullable Object passed(Method method, Object @Nullable [] arguments) throws Throwable {
    try {
      return method.invoke(connection, arguments);
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
