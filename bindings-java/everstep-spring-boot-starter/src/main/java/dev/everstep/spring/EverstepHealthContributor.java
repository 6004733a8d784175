package dev.everstep.spring;

import dev.everstep.Everstep;
import org.springframework.boot.health.contributor.AbstractHealthIndicator;
import org.springframework.boot.health.contributor.Health;

/** The engine's health as Boot 4 asks for it. */
final class EverstepHealthContributor extends AbstractHealthIndicator {
  private final Everstep app;

  EverstepHealthContributor(Everstep app) {
    super(EngineHealth.NO_ANSWER);
    this.app = app;
  }

  @Override
  protected void doHealthCheck(Health.Builder builder) {
    EngineHealth health = EngineHealth.of(app);
    (health.up() ? builder.up() : builder.outOfService()).withDetails(health.details());
  }
}
