package dev.everstep.spring;

import dev.everstep.Everstep;
import java.util.Map;
import org.springframework.boot.actuate.health.AbstractHealthIndicator;
import org.springframework.boot.actuate.health.Health;

/** Up while the engine works; out of service while it is held or closing. */
final class EverstepHealthIndicator extends AbstractHealthIndicator {
  private final Everstep app;

  EverstepHealthIndicator(Everstep app) {
    super("the engine does not answer");
    this.app = app;
  }

  @Override
  protected void doHealthCheck(Health.Builder builder) {
    if (!app.isRunning()) {
      builder.outOfService();
      return;
    }
    Map<String, Object> info = app.info();
    if (info.get("held") == null) {
      builder.up();
    } else {
      builder.outOfService();
    }
    for (String key : new String[] {"store", "phase", "namespace", "executing", "held"}) {
      if (info.get(key) != null) {
        builder.withDetail(key, info.get(key));
      }
    }
  }
}
