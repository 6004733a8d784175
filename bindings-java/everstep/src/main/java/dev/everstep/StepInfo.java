package dev.everstep;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import org.jspecify.annotations.Nullable;

/**
 * One recorded call of a run.
 *
 * @param branch its branch, empty for the main one
 * @param seq its number in the branch
 * @param segment its segment
 * @param kind step, transaction, sleep and so on
 * @param name its name
 * @param location file and line of the call
 * @param failed whether it failed
 * @param attempt the attempt that was recorded
 * @param done its place in the order of completion
 * @param took how long it took
 * @param recordedAt when it was recorded
 * @param writtenBy the worker that recorded it
 * @param host the worker's host
 * @param pid the worker's process
 * @param output the encoded output or error
 * @param epoch the execution that recorded it
 */
public record StepInfo(
    String branch,
    long seq,
    long segment,
    String kind,
    String name,
    String location,
    boolean failed,
    long attempt,
    long done,
    Duration took,
    Instant recordedAt,
    String writtenBy,
    @Nullable String host,
    @Nullable Long pid,
    @Nullable ByteBuffer output,
    long epoch) {
  static StepInfo of(Frame.Values record) {
    return new StepInfo(
        record.text(0),
        record.number(1),
        record.number(2),
        record.text(3),
        record.text(4),
        record.text(5),
        record.flag(6),
        record.number(7),
        record.number(8),
        Duration.ofNanos(record.number(9) * 1000),
        Times.instant(record.number(10)),
        record.text(11),
        record.optionalText(12),
        record.optionalNumber(13),
        buffer(record.bytes(14)),
        record.number(15));
  }

  private static @Nullable ByteBuffer buffer(byte @Nullable [] bytes) {
    return bytes == null ? null : ByteBuffer.wrap(bytes).asReadOnlyBuffer();
  }
}
