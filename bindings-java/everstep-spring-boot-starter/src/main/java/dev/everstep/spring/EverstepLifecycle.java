package dev.everstep.spring;

import dev.everstep.Everstep;
import java.time.Duration;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.DisposableBean;
import org.springframework.beans.factory.ListableBeanFactory;
import org.springframework.context.SmartLifecycle;

/**
 * Launches the engine before the web server answers, and drains it after that has stopped. In an
 * application without a web server a thread of its own keeps the virtual machine until the engine
 * is closed: the engine's own threads do not.
 */
final class EverstepLifecycle implements SmartLifecycle, DisposableBean {
  /**
   * Web servers are at 1024 and 2048 below the default phase; higher phases start later and stop
   * sooner.
   */
  private static final int PHASE = SmartLifecycle.DEFAULT_PHASE - 4096;

  private final Everstep app;
  private final Workflows workflows;
  private final List<EverstepCustomizer> customizers;
  private final ListableBeanFactory beans;
  private final Duration grace;
  private final boolean keepAlive;
  private volatile @Nullable Thread keeper;

  EverstepLifecycle(
      Everstep app,
      Workflows workflows,
      List<EverstepCustomizer> customizers,
      ListableBeanFactory beans,
      Duration grace,
      boolean keepAlive) {
    this.app = app;
    this.workflows = workflows;
    this.customizers = customizers;
    this.beans = beans;
    this.grace = grace;
    this.keepAlive = keepAlive;
  }

  @Override
  public void start() {
    customizers.forEach(customizer -> customizer.declare(app));
    workflows.register(app, beans);
    app.launch();
    // What only starts runs, or has nothing to run, ends with main.
    if (keepAlive && app.claimsRuns()) {
      Thread thread = new Thread(this::awaitEnd, "everstep-keep-alive");
      keeper = thread;
      thread.start();
    }
  }

  private void awaitEnd() {
    try {
      app.awaitClosed();
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  /** Where the engine is the application's own bean, nothing may have closed it. */
  private void release() {
    Thread thread = keeper;
    if (thread != null) {
      thread.interrupt();
    }
  }

  @Override
  public void stop() {
    try {
      app.close(grace);
    } finally {
      release();
    }
  }

  /** Where there was no stop: the start of the application has failed behind this one. */
  @Override
  public void destroy() {
    release();
  }

  @Override
  public void stop(Runnable callback) {
    // Spring bounds the phase, not this call: other beans of the phase need not wait for the drain.
    Thread drain =
        new Thread(
            () -> {
              try {
                stop();
              } finally {
                callback.run();
              }
            },
            "everstep-drain");
    drain.start();
  }

  @Override
  public boolean isRunning() {
    return app.isRunning();
  }

  @Override
  public int getPhase() {
    return PHASE;
  }
}
