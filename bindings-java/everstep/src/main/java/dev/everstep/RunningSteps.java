package dev.everstep;

import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;

/**
 * The steps of one execution that run now, and the signals that reach them.
 *
 * <p>The engine counts an attempt from its verdict on, the host from when a thread takes the
 * verdict up, which is later when the carriers are busy. So a signal may come before its step: it
 * is kept, and met at {@link #enter}. And it may come after: a step that has ended stays here,
 * deaf, until the engine has answered its end, so that a late signal of one attempt is not taken
 * for an early one of the next.
 */
final class RunningSteps {
  /** A step that runs as a job of its own has no place in a run. */
  static final Place JOB = new Place("", -1);

  record Place(String branch, long seq) {}

  private final Map<Place, RunningStep> steps = new HashMap<>();
  private final Set<Place> timedOut = new HashSet<>();

  /**
   * Winners by group, of races that still have branches: what is below the group and not below the
   * winner has lost.
   */
  private final Map<String, String> decided = new HashMap<>();

  private boolean stopped;
  private boolean cancelled;

  synchronized void enter(Place place, RunningStep step) {
    steps.put(place, step);
    boolean late = timedOut.remove(place);
    if (stopped) {
      step.raise("stop");
    } else if (cancelled && !step.shielded) {
      step.raise("cancel");
    } else if (hasLost(place.branch)) {
      step.raise("branch");
    } else if (late) {
      step.raise("timeout");
    }
  }

  private boolean hasLost(String branch) {
    if (decided.isEmpty()) {
      return false;
    }
    // A path goes /call/branch/call/branch: every second level is a group that it is in.
    for (int end = branch.indexOf('/', 1); end >= 0; end = next(branch, next(branch, end))) {
      String winner = decided.get(branch.substring(0, end));
      if (winner != null && !isUnder(branch, winner)) {
        return true;
      }
    }
    return false;
  }

  private static int next(String branch, int slash) {
    return slash < 0 ? -1 : branch.indexOf('/', slash + 1);
  }

  /** The engine has answered the end of an attempt: signals from here on are for the next one. */
  synchronized void answered(Place place) {
    steps.remove(place);
  }

  synchronized void stop() {
    stopped = true;
    raise("stop", place -> true);
  }

  synchronized void cancel() {
    cancelled = true;
    raise("cancel", place -> !steps.get(place).shielded);
  }

  synchronized void timeout(Place place) {
    RunningStep step = steps.get(place);
    if (step == null) {
      timedOut.add(place);
    } else {
      step.raise("timeout");
    }
  }

  synchronized void decide(String group, String winner) {
    decided.put(group, winner);
    raise("branch", place -> isUnder(place.branch, group) && !isUnder(place.branch, winner));
  }

  /** No branch of the group runs any more, and none of it will. */
  synchronized void forget(String group) {
    decided.remove(group);
  }

  private void raise(String what, Predicate<Place> reached) {
    steps.forEach(
        (place, step) -> {
          if (reached.test(place)) {
            step.raise(what);
          }
        });
  }

  private static boolean isUnder(String branch, String ancestor) {
    return branch.startsWith(ancestor)
        && (branch.length() == ancestor.length() || branch.charAt(ancestor.length()) == '/');
  }
}
