package dev.everstep;

/**
 * This execution has ended (released, taken over, drained): the engine unwinds a stack it does not
 * own. Let it pass; nothing done from here on is recorded. An {@code Error}, so that {@code catch
 * (Exception e)} does not hold it up.
 */
public final class ExecutionStopped extends Error {
  private static final long serialVersionUID = 1L;

  ExecutionStopped(String why) {
    // A parked run is unwound by the thousand; nobody reads this stack.
    super("this execution has ended (" + why + ")", null, false, false);
  }
}
