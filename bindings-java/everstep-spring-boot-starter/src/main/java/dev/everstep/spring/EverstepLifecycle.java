package dev.everstep.spring;

import dev.everstep.Everstep;
import java.time.Duration;
import java.util.List;
import org.springframework.beans.factory.ListableBeanFactory;
import org.springframework.context.SmartLifecycle;

/** Launches the engine before the web server answers, and drains it after that has stopped. */
final class EverstepLifecycle implements SmartLifecycle {
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

  EverstepLifecycle(
      Everstep app,
      Workflows workflows,
      List<EverstepCustomizer> customizers,
      ListableBeanFactory beans,
      Duration grace) {
    this.app = app;
    this.workflows = workflows;
    this.customizers = customizers;
    this.beans = beans;
    this.grace = grace;
  }

  @Override
  public void start() {
    customizers.forEach(customizer -> customizer.declare(app));
    workflows.register(app, beans);
    app.launch();
  }

  @Override
  public void stop() {
    app.close(grace);
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
