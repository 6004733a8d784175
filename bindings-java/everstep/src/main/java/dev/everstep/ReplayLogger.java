package dev.everstep;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.Locale;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.MDC;

/** The logger of workflow code and steps: silent below WARN while its run replays. */
final class ReplayLogger {
  private static final Logger LOG = LoggerFactory.getLogger("everstep.workflow");

  private ReplayLogger() {}

  /** Of the step that runs when a line is written, if any. */
  static Logger of(Execution execution, Supplier<@Nullable RunningStep> running) {
    return (Logger)
        Proxy.newProxyInstance(
            Logger.class.getClassLoader(),
            new Class<?>[] {Logger.class},
            (proxy, method, arguments) -> {
              if (method.isDefault()) {
                // atInfo() and its like: made of this logger's own methods, so that what they end
                // in is dropped or carries the fields, too.
                return InvocationHandler.invokeDefault(proxy, method, arguments);
              }
              String name = method.getName().toLowerCase(Locale.ROOT);
              boolean low =
                  name.contains("trace") || name.contains("debug") || name.contains("info");
              RunningStep step = running.get();
              boolean replaying = step == null && execution.replaying;
              if (low && replaying) {
                if (method.getReturnType() == boolean.class) {
                  return false;
                }
                if (method.getReturnType() == void.class) {
                  return null;
                }
              }
              Map<String, String> fields =
                  Map.of(
                      "everstep.run",
                      execution.run,
                      "everstep.workflow",
                      execution.name,
                      "everstep.step",
                      step == null ? "" : step.name(),
                      "everstep.attempt",
                      Integer.toString(step == null ? execution.attempt : step.attempt()),
                      "everstep.replaying",
                      Boolean.toString(replaying));
              fields.forEach(MDC::put);
              try {
                return method.invoke(LOG, arguments);
              } catch (InvocationTargetException error) {
                throw error.getTargetException();
              } finally {
                fields.keySet().forEach(MDC::remove);
              }
            });
  }
}
