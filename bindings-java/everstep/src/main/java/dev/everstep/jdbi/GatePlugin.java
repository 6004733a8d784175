package dev.everstep.jdbi;

import java.sql.Connection;
import org.jdbi.v3.core.Handle;
import org.jdbi.v3.core.Jdbi;
import org.jdbi.v3.core.spi.JdbiPlugin;
import org.jspecify.annotations.Nullable;

/** Puts a gate into the handles this library opens. Nothing else reaches a handle's connection. */
final class GatePlugin implements JdbiPlugin {
  /** Of all plugins: a second one on the same Jdbi must not put a gate before the gate. */
  private static final ThreadLocal<@Nullable Gate> OPENING = new ThreadLocal<>();

  static Handle opened(Jdbi jdbi, Gate gate) {
    OPENING.set(gate);
    try {
      return jdbi.open();
    } finally {
      OPENING.remove();
    }
  }

  @Override
  public Connection customizeConnection(Connection connection) {
    Gate gate = OPENING.get();
    if (gate == null) {
      return connection;
    }
    OPENING.remove();
    return gate.of(connection);
  }
}
