package dev.everstep;

import dev.everstep.StepCalls.Call;
import dev.everstep.StepCalls.Outcome;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Transactional steps: the user's rows and the checkpoint commit together or not at all ({@code
 * core/docs/protocol.md}, "Transactions").
 */
final class Transactions {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  private Transactions() {}

  /** What is asked of the engine after an attempt. */
  private sealed interface Asked {
    /** {@code tx_done} with this word. */
    record Done(String word, byte @Nullable [] output, @Nullable Object value) implements Asked {}

    /** {@code finish_step}. */
    record Failed(Outcome outcome) implements Asked {}

    /** {@code tx_commit} of the engine's own transaction. */
    record Commit(long number, byte[] output, @Nullable Object value) implements Asked {}
  }

  /** Runs the user's function in an open transaction. */
  @FunctionalInterface
  private interface Body {
    Asked run(Call call, RunningStep running) throws Exception;
  }

  /** Attempts on the engine's own connection. */
  static <I extends @Nullable Object, O extends @Nullable Object> StepCalls.Attempt own(
      ContextTransactionFunction<Transaction, I, O> function) {
    return call -> attempt(call, (inner, running) -> ownBody(inner, running, function));
  }

  /** Attempts on the user's own driver. */
  static <T, I extends @Nullable Object, O extends @Nullable Object> StepCalls.Attempt on(
      TransactionSource<T> source, ContextTransactionFunction<T, I, O> function) {
    return call -> attempt(call, (inner, running) -> body(inner, running, source, function));
  }

  private static Frame.Values attempt(Call call, Body body) {
    RunningStep running = call.enter();
    Execution execution = call.ctx.execution;
    Asked asked;
    try {
      requireUncut(running.signal(), execution);
      asked = body.run(call, running);
      // While the answer is waited for nothing is to be interrupted.
      running.end();
    } catch (ExecutionStopped stop) {
      running.end();
      throw stop;
    } catch (Throwable error) {
      String signal = running.end();
      boolean lost =
          error instanceof EverstepException known && known.code() == ErrorCode.UNAVAILABLE;
      asked =
          signal == null && lost
              ? new Asked.Done("conflict", null, null)
              : new Asked.Failed(StepCalls.threw(call.function, error, signal, execution));
    } finally {
      call.ctx.leave();
    }
    return ask(call, asked);
  }

  /** What a function that waits would see of the signal, where it waits for nothing. */
  private static void requireUncut(@Nullable String signal, Execution execution)
      throws InterruptedException {
    if (signal != null) {
      if (signal.equals("timeout")) {
        throw new InterruptedException("the step's time is over");
      }
      throw execution.cancelled();
    }
  }

  private static Frame.Values ask(Call call, Asked asked) {
    long exec = call.ctx.execution.id;
    long seq = call.verdict.number(1);
    long attempt = call.verdict.number(2);
    String branch = call.ctx.branch;
    if (asked instanceof Asked.Failed failed) {
      return call.finish(failed.outcome);
    }
    if (asked instanceof Asked.Commit commit) {
      call.sent = succeeded(commit.value, commit.output);
      return call.end(Ops.TX_COMMIT, commit.number, exec, branch, seq, attempt, commit.output);
    }
    Asked.Done done = (Asked.Done) asked;
    call.sent = succeeded(done.value, done.output == null ? new byte[0] : done.output);
    return call.end(Ops.TX_DONE, exec, branch, seq, attempt, done.word, done.output);
  }

  private static Outcome succeeded(@Nullable Object value, byte[] output) {
    return new Outcome(value, false, output, false, null, null, false);
  }

  @SuppressWarnings("unchecked")
  private static <I extends @Nullable Object, O extends @Nullable Object> Asked ownBody(
      Call call, RunningStep running, ContextTransactionFunction<Transaction, I, O> function)
      throws Exception {
    long number =
        Calls.request(
                call.ctx,
                Ops.TX_OPEN,
                call.ctx.execution.id,
                call.ctx.branch,
                call.verdict.number(1))
            .number(0);
    try {
      O value = function.run(running, new Transaction(call.ctx, number), (I) call.input);
      byte[] output = StepCalls.output(call.function, value, call.ctx.execution);
      requireUncut(running.end(), call.ctx.execution);
      return new Asked.Commit(number, output, value);
    } catch (Throwable error) {
      call.ctx.execution.client.submitQuietly(Ops.TX_ROLLBACK, number);
      throw error;
    }
  }

  @SuppressWarnings("unchecked")
  private static <T, I extends @Nullable Object, O extends @Nullable Object> Asked body(
      Call call,
      RunningStep running,
      TransactionSource<T> source,
      ContextTransactionFunction<T, I, O> function)
      throws Exception {
    OpenTransaction<T> transaction;
    try {
      transaction = source.open();
    } catch (Exception error) {
      if (SqlStates.isLost(error) && running.signal() == null) {
        return new Asked.Done("conflict", null, null);
      }
      throw error;
    }
    boolean settled = false;
    boolean inFunction = true;
    try {
      O value = function.run(running, transaction.given(), (I) call.input);
      inFunction = false;
      byte[] output = StepCalls.output(call.function, value, call.ctx.execution);
      transaction.flush();
      Frame.Values guard =
          Calls.call(
              call.ctx,
              Ops.TX_GUARD,
              call.ctx.branch,
              call.verdict.number(1),
              call.verdict.number(2),
              output,
              "question");
      String word = guarded(transaction.connection(), guard.text(0), guard.list(1));
      if (word.equals("ok")) {
        // A signal must not tear the COMMIT apart: from here on the outcome is the database's.
        if (running.end() != null) {
          throw new InterruptedException("cut short before its COMMIT");
        }
        word = committed(transaction);
        settled = word.equals("committed");
      }
      return new Asked.Done(word, output, value);
    } catch (Throwable error) {
      boolean lost = SqlStates.isLost(error);
      if (lost && inFunction) {
        // It may be the error of another data source, which tells nothing of this one.
        lost = isGone(transaction);
        settled = true;
      }
      if ((lost || SqlStates.isConflict(error)) && running.signal() == null) {
        return new Asked.Done("conflict", null, null);
      }
      throw error;
    } finally {
      if (!settled) {
        quietly(transaction::rollback);
      }
      quietly(transaction::close);
    }
  }

  /**
   * Asked by its ROLLBACK, which is due all the same. Behind one a pool may have the connection.
   */
  private static boolean isGone(OpenTransaction<?> transaction) {
    try {
      boolean closed = transaction.connection().isClosed();
      transaction.rollback();
      return closed;
    } catch (Exception error) {
      LOG.debug("after a transaction: {}", error.toString());
      return true;
    }
  }

  private static String guarded(
      Connection connection, String sql, List<@Nullable Object> parameters) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      for (int index = 0; index < parameters.size(); index++) {
        Object value = parameters.get(index);
        statement.setString(index + 1, value == null ? null : value.toString());
      }
      try (ResultSet rows = statement.executeQuery()) {
        rows.next();
        return rows.getString(1);
      }
    } catch (SQLException error) {
      if (SqlStates.knowsNoEngine(error)) {
        return "other_database";
      }
      throw error;
    }
  }

  private static String committed(OpenTransaction<?> transaction) throws Exception {
    try {
      transaction.commit();
      return "committed";
    } catch (Exception error) {
      boolean rolledBack = transaction.isRolledBack() && !SqlStates.isLost(error);
      if (rolledBack || SqlStates.isConflict(error) || SqlStates.isRefusal(error)) {
        throw error;
      }
      // The engine asks the database which it was.
      LOG.warn("the answer to a COMMIT was lost: {}", error.toString());
      return "unknown";
    }
  }

  @FunctionalInterface
  private interface Action {
    void run() throws Exception;
  }

  /**
   * Rolling back or giving back a connection that is already gone fails; the error that matters is
   * the first one.
   */
  private static void quietly(Action action) {
    try {
      action.run();
    } catch (Exception error) {
      LOG.debug("after a transaction: {}", error.toString());
    }
  }
}
