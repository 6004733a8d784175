package dev.everstep;

import java.lang.reflect.Field;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** What a test counts that no program can. */
public final class Inside {
  private Inside() {}

  /** Answers that are waited for. */
  public static int waiting(Everstep app) {
    return app.engine.client().waiting();
  }

  /** Platform threads are made by {@code factory}, which may say that there are no more. */
  public static void threads(Everstep app, ThreadFactory factory)
      throws ReflectiveOperationException {
    Field pool = Threads.class.getDeclaredField("pool");
    pool.setAccessible(true);
    pool.set(
        app.engine.threads,
        new ThreadPoolExecutor(
            0, Integer.MAX_VALUE, 1, TimeUnit.SECONDS, new SynchronousQueue<>(), factory));
  }
}
