package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.QueueInfo;
import dev.everstep.ResultTimeout;
import dev.everstep.Run;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Queues are rows of the fleet's. */
@Timeout(60)
final class QueuesTest {
  @Test
  void aPauseChangesNothingElseOfAQueue() {
    try (Everstep app = Everstep.open(TestDatabase.sqlite()::apply)) {
      app.queue("orders", o -> o.limit(3).keyLimit(2));
      WorkflowRef<Integer, Integer> echo =
          app.workflow("echo", Integer.class, Integer.class, (ctx, n) -> n);
      app.launch();
      app.pauseQueue("orders");
      QueueInfo paused = app.queues().get(0);
      assertTrue(paused.paused());
      assertEquals(3L, paused.limit());
      assertEquals(2L, paused.keyLimit());
      Run<Integer> run = echo.start(7, o -> o.queue("orders"));
      assertThrows(ResultTimeout.class, () -> run.result(Duration.ofMillis(200)));
      app.resumeQueue("orders");
      assertEquals(7, run.result(Duration.ofSeconds(30)));
      EverstepException unknown =
          assertThrows(EverstepException.class, () -> app.pauseQueue("ordres"));
      assertEquals(ErrorCode.UNKNOWN_QUEUE, unknown.code());
      assertTrue(unknown.getMessage().contains("orders"), unknown.getMessage());
    }
  }
}
