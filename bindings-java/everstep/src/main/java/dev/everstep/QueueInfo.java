package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * A queue as the fleet sees it.
 *
 * @param name its name
 * @param paused whether nothing is claimed from it
 * @param limit how many of its runs execute at once in the whole fleet
 * @param workerLimit how many in one process
 * @param keyLimit how many of one fairness key
 * @param hold whether a released run keeps its slot
 */
public record QueueInfo(
    String name,
    boolean paused,
    @Nullable Long limit,
    @Nullable Long workerLimit,
    @Nullable Long keyLimit,
    boolean hold) {
  static QueueInfo of(Frame.Values record) {
    return new QueueInfo(
        record.text(0),
        record.flag(1),
        record.optionalNumber(2),
        record.optionalNumber(3),
        record.optionalNumber(4),
        record.flag(5));
  }
}
