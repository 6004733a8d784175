package dev.everstep;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.concurrent.Executor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * Where the user's code runs: virtual threads where the runtime has them, else daemon threads, as
 * many as runs are in memory at once (the engine's slots bound those), kept for a while when idle.
 *
 * <p>Daemons: an exit must not wait for a step that takes an hour. {@link Engine#close} ends their
 * waits first.
 */
final class Threads implements Executor {
  private static final long IDLE_SECONDS = 10;

  /** {@code Thread.startVirtualThread}, since 21; this library also runs on 17. */
  private static final @Nullable MethodHandle START_VIRTUAL = find();

  private final @Nullable MethodHandle startVirtual;
  private final AtomicLong numbers = new AtomicLong();
  private volatile @Nullable ThreadPoolExecutor pool;
  private boolean ended;

  Threads(@Nullable Boolean virtual) {
    if (Boolean.TRUE.equals(virtual) && START_VIRTUAL == null) {
      throw Options.invalid(
          "virtual threads need Java 21, this is Java " + Runtime.version().feature());
    }
    startVirtual = Boolean.FALSE.equals(virtual) ? null : START_VIRTUAL;
  }

  private static @Nullable MethodHandle find() {
    if (Runtime.version().feature() < 21) {
      return null;
    }
    try {
      return MethodHandles.publicLookup()
          .findStatic(
              Thread.class,
              "startVirtualThread",
              MethodType.methodType(Thread.class, Runnable.class));
    } catch (ReflectiveOperationException error) {
      return null;
    }
  }

  boolean areVirtual() {
    return startVirtual != null;
  }

  @Override
  public void execute(Runnable work) {
    if (startVirtual == null) {
      ThreadPoolExecutor known = pool;
      (known == null ? pool() : known).execute(work);
      return;
    }
    try {
      Thread started = (Thread) startVirtual.invokeExact(work);
      assert started != null;
    } catch (RuntimeException | Error error) {
      throw error;
    } catch (Throwable error) {
      throw new IllegalStateException("a virtual thread did not start", error);
    }
  }

  private synchronized ThreadPoolExecutor pool() {
    ThreadPoolExecutor made = pool;
    if (made == null) {
      made =
          new ThreadPoolExecutor(
              0,
              Integer.MAX_VALUE,
              IDLE_SECONDS,
              TimeUnit.SECONDS,
              new SynchronousQueue<>(),
              work -> {
                Thread thread = new Thread(work, "everstep-run-" + numbers.incrementAndGet());
                thread.setDaemon(true);
                return thread;
              },
              // After close nothing runs here; what waits for it has its error from there.
              new ThreadPoolExecutor.DiscardPolicy());
      if (ended) {
        made.shutdown();
      }
      pool = made;
    }
    return made;
  }

  /** Idle threads end now, others when their work does. */
  synchronized void end() {
    ended = true;
    ThreadPoolExecutor last = pool;
    if (last != null) {
      last.shutdown();
    }
  }
}
