package dev.everstep;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Signals that come before the thread of their step, and after it. */
final class RunningStepsTest {
  private final Everstep app = Everstep.open();
  private final Execution execution =
      new Execution(
          app.engine,
          null,
          1,
          new Frame.Values(List.of("run", "name", "workflow", 1L, false, "id", new byte[0])));
  private final RunningSteps steps = execution.running;
  private final RunningSteps.Place place = new RunningSteps.Place("/0/1", 3);

  @AfterEach
  void close() {
    assertEquals(false, Thread.interrupted(), "an interrupt of a step outlives it");
    app.close();
  }

  private RunningStep enter(int attempt, int flags) {
    RunningStep step = new RunningStep(execution, "step", attempt, "key", flags);
    steps.enter(place, step);
    return step;
  }

  @Test
  void aTimeoutBeforeItsStepIsKeptAndOneOfAnAttemptThatEndedIsNot() {
    steps.timeout(place);
    RunningStep first = enter(1, 0);
    assertEquals("timeout", first.end());
    steps.timeout(place);
    steps.answered(place);
    RunningStep second = enter(2, 0);
    assertNull(second.end());
    steps.answered(place);
    // Between the verdict of the third attempt and its thread.
    steps.timeout(place);
    assertEquals("timeout", enter(3, 0).end());
    assertNull(enter(4, 0).end());
  }

  @Test
  void aCancelBeforeItsStepReachesItUnlessItIsCleanUp() {
    execution.signal(new Frame.Values(List.of("cancel", "me", "why")));
    assertEquals("cancel", enter(1, 0).end());
    assertNull(enter(1, Ops.FLAG_SHIELDED).end());
  }

  @Test
  void aStepThatBeginsInABranchThatHasLostIsCut() {
    RunningStep running = enter(1, 0);
    steps.decide("/0", "/0/2");
    assertEquals("branch", running.end());
    assertEquals("branch", enter(1, 0).end());
    RunningStep winner = new RunningStep(execution, "step", 1, "key", 0);
    steps.enter(new RunningSteps.Place("/0/2/5/0", 0), winner);
    assertNull(winner.end());
  }

  @Test
  void aStepThatBeginsAfterAStopIsCut() {
    execution.stop("closed");
    assertEquals("stop", enter(1, Ops.FLAG_SHIELDED).end());
  }
}
