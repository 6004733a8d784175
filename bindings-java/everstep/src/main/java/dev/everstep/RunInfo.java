package dev.everstep;

import com.fasterxml.jackson.core.JsonProcessingException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * A run as the database has it now.
 *
 * @param key the run's key, a uuid
 * @param id the id it was started with
 * @param workflow name of its workflow
 * @param version the version it was started with, which pins it to nothing
 * @param queue the queue it waits or waited in
 * @param label its label
 * @param state where it is
 * @param epoch grows with every execution
 * @param priority its order within the queue, the lowest first
 * @param crashes deaths of its worker without progress
 * @param attempt attempt of the whole run
 * @param owner the worker that executes it
 * @param ownerHost the worker's host
 * @param ownerPid the worker's process
 * @param parent the parent's key
 * @param root key of the first of its ancestors
 * @param forkedFrom key of the run it was forked from
 * @param attributes what lists can filter by
 * @param fairnessKey what a queue's key limit counts by
 * @param cost what it was started with; no limit counts by it yet
 * @param createdBy who started it
 * @param createdAt when it was started
 * @param finishedAt when it ended
 * @param startAt when it may start
 * @param deadlineAt when it is cancelled
 * @param expiresAt when it is cancelled if it has not started
 * @param errorType type of its error
 * @param errorMessage text of its error
 * @param cancelBy who asked to cancel
 * @param cancelWhy why
 * @param blockedWhy why it is blocked
 * @param waitsFor what it waits for, in words
 * @param stepsRecorded how many calls are recorded
 * @param traceParent its W3C traceparent
 * @param traceState its W3C tracestate
 */
public record RunInfo(
    String key,
    @Nullable String id,
    String workflow,
    @Nullable String version,
    @Nullable String queue,
    @Nullable String label,
    RunState state,
    long epoch,
    long priority,
    long crashes,
    long attempt,
    @Nullable String owner,
    @Nullable String ownerHost,
    @Nullable Long ownerPid,
    @Nullable String parent,
    String root,
    @Nullable String forkedFrom,
    Map<String, Object> attributes,
    @Nullable String fairnessKey,
    long cost,
    @Nullable String createdBy,
    Instant createdAt,
    @Nullable Instant finishedAt,
    @Nullable Instant startAt,
    @Nullable Instant deadlineAt,
    @Nullable Instant expiresAt,
    @Nullable String errorType,
    @Nullable String errorMessage,
    @Nullable String cancelBy,
    @Nullable String cancelWhy,
    @Nullable String blockedWhy,
    List<String> waitsFor,
    long stepsRecorded,
    @Nullable String traceParent,
    @Nullable String traceState) {
  static RunInfo of(Frame.Values record) {
    return new RunInfo(
        record.text(0),
        record.optionalText(1),
        record.text(2),
        record.optionalText(3),
        nonEmpty(record.optionalText(4)),
        nonEmpty(record.optionalText(5)),
        RunState.of(record.text(6)),
        record.number(7),
        record.number(8),
        record.number(9),
        record.number(10),
        record.optionalText(11),
        record.optionalText(12),
        record.optionalNumber(13),
        record.optionalText(14),
        record.text(15),
        record.optionalText(16),
        attributes(record.optionalText(17)),
        record.optionalText(18),
        record.number(19),
        record.optionalText(20),
        Times.instant(record.number(21)),
        optionalTime(record, 22),
        optionalTime(record, 23),
        optionalTime(record, 24),
        optionalTime(record, 25),
        record.optionalText(26),
        record.optionalText(27),
        record.optionalText(28),
        record.optionalText(29),
        record.optionalText(30),
        words(record.list(31)),
        record.number(32),
        record.optionalText(35),
        record.optionalText(36));
  }

  private static @Nullable Instant optionalTime(Frame.Values record, int index) {
    Long value = record.optionalNumber(index);
    return value == null ? null : Times.instant(value);
  }

  private static @Nullable String nonEmpty(@Nullable String text) {
    return text == null || text.isEmpty() ? null : text;
  }

  @SuppressWarnings("unchecked")
  static Map<String, Object> attributes(@Nullable String text) {
    if (text == null || text.isEmpty()) {
      return Map.of();
    }
    try {
      return Payloads.PLAIN.readValue(text, LinkedHashMap.class);
    } catch (JsonProcessingException error) {
      throw Payloads.invalid("attributes: " + error.getOriginalMessage());
    }
  }

  private static List<String> words(List<@Nullable Object> waits) {
    List<String> out = new ArrayList<>();
    for (Object wait : waits) {
      out.add(
          wait instanceof List<?> parts
              ? parts.stream()
                  .filter(Objects::nonNull)
                  .map(String::valueOf)
                  .collect(Collectors.joining(" "))
              : String.valueOf(wait));
    }
    return out;
  }
}
