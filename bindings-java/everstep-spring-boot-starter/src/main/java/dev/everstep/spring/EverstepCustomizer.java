package dev.everstep.spring;

import dev.everstep.EngineOptions;
import dev.everstep.Everstep;

/** A bean that has a say before the engine is launched. */
public interface EverstepCustomizer {
  /**
   * Changes options that {@code application.yaml} has no key for.
   *
   * @param options the options, with the properties applied
   */
  default void options(EngineOptions options) {}

  /**
   * Declares what no workflow bean declares: errors, queues.
   *
   * @param app the engine, before its launch
   */
  default void declare(Everstep app) {}
}
