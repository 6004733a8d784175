package dev.everstep.spring;

import dev.everstep.Everstep;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Up while the engine works; out of service while it is held or closing.
 *
 * @param up whether it works
 * @param details what it says of itself
 */
record EngineHealth(boolean up, Map<String, Object> details) {
  static final String NO_ANSWER = "the engine does not answer";

  static EngineHealth of(Everstep app) {
    Map<String, Object> details = new LinkedHashMap<>();
    if (!app.isRunning()) {
      return new EngineHealth(false, details);
    }
    Map<String, Object> info = app.info();
    for (String key : new String[] {"store", "phase", "namespace", "executing", "held"}) {
      if (info.get(key) != null) {
        details.put(key, info.get(key));
      }
    }
    return new EngineHealth(info.get("held") == null, details);
  }
}
