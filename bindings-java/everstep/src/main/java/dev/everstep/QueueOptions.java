package dev.everstep;

import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** The limits of a queue. */
public final class QueueOptions {
  private @Nullable Long limit;
  private @Nullable Long workerLimit;
  private @Nullable Long keyLimit;
  private boolean paused;
  private boolean hold;

  QueueOptions() {}

  /**
   * How many of its runs execute at once in the whole fleet.
   *
   * @param count default no limit
   * @return this
   */
  public QueueOptions limit(int count) {
    limit = (long) count;
    return this;
  }

  /**
   * How many execute at once in one process.
   *
   * @param count default no limit
   * @return this
   */
  public QueueOptions workerLimit(int count) {
    workerLimit = (long) count;
    return this;
  }

  /**
   * How many of one fairness key execute at once.
   *
   * @param count default no limit
   * @return this
   */
  public QueueOptions keyLimit(int count) {
    keyLimit = (long) count;
    return this;
  }

  /**
   * Nothing is claimed from it; what runs goes on.
   *
   * @return this
   */
  public QueueOptions paused() {
    paused = true;
    return this;
  }

  /**
   * A released run keeps its slot, so that a limit of 1 is a mutex.
   *
   * @return this
   */
  public QueueOptions hold() {
    hold = true;
    return this;
  }

  static List<@Nullable Object> record(String name, @Nullable Consumer<QueueOptions> configurer) {
    QueueOptions out = new QueueOptions();
    if (configurer != null) {
      configurer.accept(out);
    }
    return Arrays.asList(
        Options.required(name, "the queue's name"),
        out.paused,
        out.limit,
        out.workerLimit,
        out.keyLimit,
        out.hold);
  }
}
