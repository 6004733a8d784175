package dev.everstep.spring;

import dev.everstep.Everstep;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.springframework.beans.factory.DisposableBean;
import org.springframework.beans.factory.ListableBeanFactory;
import org.springframework.context.SmartLifecycle;

/**
 * Launches the engine before the web server answers, and drains it after that has stopped. In an
 * application without a web server a thread of its own keeps the virtual machine: the engine's own
 * threads do not.
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
  private final CountDownLatch over = new CountDownLatch(1);

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
    // A client, whatever made it one, is connected only.
    if (keepAlive && "launched".equals(app.info().get("phase"))) {
      new Thread(this::awaitEnd, "everstep-keep-alive").start();
    }
  }

  private void awaitEnd() {
    try {
      over.await();
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void stop() {
    try {
      app.close(grace);
    } finally {
      over.countDown();
    }
  }

  /** Where there was no stop: the start of the application has failed behind this one. */
  @Override
  public void destroy() {
    over.countDown();
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
