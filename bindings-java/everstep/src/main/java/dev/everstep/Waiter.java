package dev.everstep;

import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Who waits for the answer to one token. */
interface Waiter {
  /** The frame of an answer lies in {@code bytes} from {@code from} up to {@code end}. */
  void answer(int kind, byte[] bytes, int from, int end);

  /** No answer will come. */
  void fail(EverstepException error);

  private static Frame.Values values(int kind, byte[] bytes, int from, int end) {
    Frame.Values values = Frame.read(bytes, from, end);
    if (kind == Ops.EVENT_FAILED) {
      throw EverstepException.ofAnswer(values.text(0), values.text(1));
    }
    return values;
  }

  /** A thread, parked. Its own work reads the frame, not the poller's. */
  final class Parked implements Waiter {
    private final Thread thread = Thread.currentThread();
    private final Runnable arrived;
    private int kind;
    private byte @Nullable [] bytes;
    private int from;
    private int end;
    private @Nullable EverstepException error;
    private volatile boolean answered;

    Parked() {
      this(() -> {});
    }

    /**
     * {@code arrived} runs where events are handed out, after those before the answer and before
     * those behind it.
     */
    Parked(Runnable arrived) {
      this.arrived = arrived;
    }

    @Override
    public void answer(int kind, byte[] bytes, int from, int end) {
      arrived.run();
      this.kind = kind;
      this.bytes = bytes;
      this.from = from;
      this.end = end;
      answered = true;
      LockSupport.unpark(thread);
    }

    @Override
    public void fail(EverstepException error) {
      this.error = error;
      answered = true;
      LockSupport.unpark(thread);
    }

    /**
     * Waits for the answer. A thread of the engine's own ({@code interruptible} false) keeps an
     * interrupt for the user's code: the flag is set again afterwards.
     */
    Frame.Values await(boolean interruptible) {
      boolean interrupted = false;
      try {
        while (!answered) {
          LockSupport.park(this);
          if (Thread.interrupted()) {
            interrupted = true;
            if (interruptible && !answered) {
              throw new WaitInterrupted();
            }
          }
        }
      } finally {
        if (interrupted) {
          Thread.currentThread().interrupt();
        }
      }
      if (error != null) {
        // Made on another thread: its stack says nothing about this call.
        error.setStackTrace(new Throwable().getStackTrace());
        throw error;
      }
      return values(kind, Objects.requireNonNull(bytes), from, end);
    }
  }

  /**
   * A future, completed on a thread of its own: what hangs on it is the user's code, not the
   * poller's.
   */
  final class Future<T extends @Nullable Object> implements Waiter {
    final CompletableFuture<T> future = new CompletableFuture<>();
    private final Threads threads;
    private final Function<Frame.Values, T> read;

    /** Key of the run that is asked about, for errors. */
    private final @Nullable String run;

    Future(Threads threads, Function<Frame.Values, T> read, @Nullable String run) {
      this.run = run;
      this.threads = threads;
      this.read = read;
    }

    @Override
    public void answer(int kind, byte[] bytes, int from, int end) {
      Runnable completion =
          () -> {
            try {
              future.complete(read.apply(values(kind, bytes, from, end)));
            } catch (RuntimeException | Error error) {
              if (run != null && error instanceof EverstepException ours) {
                ours.about(run);
              }
              future.completeExceptionally(error);
            }
          };
      elsewhere(completion);
    }

    @Override
    public void fail(EverstepException error) {
      elsewhere(() -> future.completeExceptionally(error));
    }

    private void elsewhere(Runnable completion) {
      boolean taken = false;
      try {
        taken = threads.execute(completion);
      } finally {
        if (!taken) {
          // The engine ends, or no thread is to be had; dropped, the future would never complete.
          completion.run();
        }
      }
    }
  }
}
