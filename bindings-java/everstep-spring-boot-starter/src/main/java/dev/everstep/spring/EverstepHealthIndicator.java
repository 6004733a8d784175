package dev.everstep.spring;

import dev.everstep.Everstep;
import org.springframework.boot.actuate.health.AbstractHealthIndicator;
import org.springframework.boot.actuate.health.Health;

/** The engine's health as Boot 3 asks for it. */
final class EverstepHealthIndicator extends AbstractHealthIndicator {
  private final Everstep app;

  EverstepHealthIndicator(Everstep app) {
    super(EngineHealth.NO_ANSWER);
    this.app = app;
  }

  @Override
  protected void doHealthCheck(Health.Builder builder) {
    EngineHealth health = EngineHealth.of(app);
    (health.up() ? builder.up() : builder.outOfService()).withDetails(health.details());
  }
}
