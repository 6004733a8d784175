package dev.everstep;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.time.temporal.TemporalAccessor;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import org.jspecify.annotations.Nullable;

/**
 * A transaction on the engine's own connection: no driver needed, on both stores. On SQLite it
 * holds the writer, for five seconds at most.
 */
public final class Transaction {
  private final WorkflowContext ctx;
  private final long number;

  Transaction(WorkflowContext ctx, long number) {
    this.ctx = ctx;
    this.number = number;
  }

  /**
   * Runs one statement.
   *
   * @param sql with placeholders {@code $1}, {@code $2} on both stores
   * @param parameters numbers, texts, booleans, bytes; points in time, decimals and uuids go as the
   *     text a database reads, others as JSON
   * @return its rows
   */
  public Rows execute(String sql, @Nullable Object... parameters) {
    List<@Nullable Object> values = new ArrayList<>();
    for (Object parameter : parameters) {
      values.add(parameter(parameter));
    }
    return new Rows(
        Calls.request(ctx, Ops.TX_EXECUTE, number, Options.required(sql, "the statement"), values));
  }

  private @Nullable Object parameter(@Nullable Object value) {
    if (value == null
        || value instanceof String
        || value instanceof Boolean
        || value instanceof byte[]
        || value instanceof Double) {
      return value;
    }
    if (value instanceof Long
        || value instanceof Integer
        || value instanceof Short
        || value instanceof Byte) {
      return ((Number) value).longValue();
    }
    if (value instanceof Float number) {
      return number.doubleValue();
    }
    if (value instanceof TemporalAccessor
        || value instanceof BigDecimal
        || value instanceof BigInteger
        || value instanceof UUID
        || value instanceof Enum<?>) {
      return value.toString();
    }
    return new String(ctx.execution.engine.payloads.encode(value), StandardCharsets.UTF_8);
  }
}
