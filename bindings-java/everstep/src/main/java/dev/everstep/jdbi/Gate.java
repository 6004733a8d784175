package dev.everstep.jdbi;

import dev.everstep.OpenTransaction;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The connection of a handle: JDBI's own while the transaction begins and ends, and lent in
 * between, while the step's function has the handle. A handle keeps one connection for its life.
 */
final class Gate implements InvocationHandler {
  private @Nullable Connection connection;
  private volatile @Nullable Connection current;

  Connection of(Connection opened) {
    connection = opened;
    current = opened;
    return (Connection)
        Proxy.newProxyInstance(
            Gate.class.getClassLoader(), new Class<?>[] {Connection.class}, this);
  }

  Connection connection() {
    return Objects.requireNonNull(connection, "no connection");
  }

  void lend() {
    current = OpenTransaction.lent(connection());
  }

  void open() {
    current = connection();
  }

  @Override
  public @Nullable Object invoke(Object proxy, Method method, Object @Nullable [] arguments)
      throws Throwable {
    return switch (method.getName()) {
      case "equals" -> arguments != null && proxy == arguments[0];
      case "hashCode" -> System.identityHashCode(proxy);
      default -> {
        try {
          yield method.invoke(current, arguments);
        } catch (InvocationTargetException thrown) {
          throw thrown.getTargetException();
        }
      }
    };
  }
}
