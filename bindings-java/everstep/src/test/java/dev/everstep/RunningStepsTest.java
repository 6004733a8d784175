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
  void aRaceIsForgottenWithItsLastBranch() {
    steps.decide("/7", "/7/0");
    steps.decide("/0/1/4", "/0/1/4/k:a");
    assertNull(enter(1, 0).end());
    RunningStep loser = new RunningStep(execution, "step", 1, "key", 0);
    steps.enter(new RunningSteps.Place("/0/1/4/k:b/2/0", 0), loser);
    assertEquals("branch", loser.end());
    steps.forget("/0/1/4");
    RunningStep late = new RunningStep(execution, "step", 1, "key", 0);
    steps.enter(new RunningSteps.Place("/0/1/4/k:b", 0), late);
    assertNull(late.end());
  }

  /** A conflict does not end the attempt, whose time goes on. */
  @Test
  void aTimeoutBetweenTwoTriesOfATransactionReachesTheSecond() {
    StepCalls.Call call =
        new StepCalls.Call(
            new WorkflowContext(execution, place.branch(), 0),
            Registered.foreign("step", Object.class),
            null,
            verdict(1));
    RunningStep first = call.enter();
    assertNull(first.end());
    steps.timeout(place);
    steps.answered(place);
    RunningStep second = call.enter();
    assertEquals("timeout", second.end());
    // Of this attempt, and not of the next one.
    steps.answered(place);
    call.verdict = verdict(2);
    assertNull(call.enter().end());
  }

  private Frame.Values verdict(long attempt) {
    return new Frame.Values(List.of((long) Ops.VERDICT_RUN, place.seq(), attempt, "key"));
  }

  @Test
  void aStepThatBeginsAfterAStopIsCut() {
    execution.stop("closed");
    assertEquals("stop", enter(1, Ops.FLAG_SHIELDED).end());
  }
}
