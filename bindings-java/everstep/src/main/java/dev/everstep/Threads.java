package dev.everstep;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
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
 *
 * <p>They see the context class loader of whoever made the engine, and nobody's inherited thread
 * locals: the thread that happened to launch it may carry a request's user.
 */
final class Threads {
  private static final long IDLE_SECONDS = 10;
  private static final String NAME = "everstep-run-";

  private final @Nullable ThreadFactory virtual;
  private final @Nullable ClassLoader loader = Thread.currentThread().getContextClassLoader();
  private final AtomicLong numbers = new AtomicLong();
  private volatile @Nullable ThreadPoolExecutor pool;
  private volatile boolean ended;

  Threads(@Nullable Boolean wanted) {
    boolean known = Runtime.version().feature() >= 21;
    if (Boolean.TRUE.equals(wanted) && !known) {
      throw Options.invalid(
          "virtual threads need Java 21, this is Java " + Runtime.version().feature());
    }
    virtual = known && !Boolean.FALSE.equals(wanted) ? virtualThreads() : null;
  }

  /** {@code Thread.ofVirtual()}, since 21; this library also runs on 17. */
  private static ThreadFactory virtualThreads() {
    try {
      Object builder = Thread.class.getMethod("ofVirtual").invoke(null);
      Class<?> type = Class.forName("java.lang.Thread$Builder$OfVirtual");
      builder = type.getMethod("name", String.class, long.class).invoke(builder, NAME, 1L);
      Method inherit = type.getMethod("inheritInheritableThreadLocals", boolean.class);
      builder = inherit.invoke(builder, false);
      return (ThreadFactory) type.getMethod("factory").invoke(builder);
    } catch (InvocationTargetException error) {
      throw new IllegalStateException("no virtual threads", error.getCause());
    } catch (ReflectiveOperationException error) {
      throw new IllegalStateException("no virtual threads", error);
    }
  }

  boolean areVirtual() {
    return virtual != null;
  }

  /** False after {@link #end}: nothing runs here any more. */
  boolean execute(Runnable work) {
    if (ended) {
      return false;
    }
    if (virtual != null) {
      Thread thread = virtual.newThread(work);
      thread.setContextClassLoader(loader);
      thread.start();
      return true;
    }
    try {
      ThreadPoolExecutor known = pool;
      (known == null ? pool() : known).execute(work);
      return true;
    } catch (RejectedExecutionException over) {
      return false;
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
                Thread thread = new Thread(null, work, NAME + numbers.incrementAndGet(), 0, false);
                thread.setDaemon(true);
                thread.setContextClassLoader(loader);
                return thread;
              });
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
