package dev.everstep;

import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Which runs {@link Everstep#runs} lists. */
public final class RunFilter {
  private @Nullable List<String> states;
  private @Nullable String workflow;
  private @Nullable String queue;
  private @Nullable String parent;
  private @Nullable String attribute;
  private @Nullable String attributeValue;
  private @Nullable Instant createdFrom;
  private @Nullable Instant createdBefore;
  private @Nullable String after;
  private int limit = 100;

  RunFilter() {}

  /**
   * In one of these states.
   *
   * @param alternatives the states
   * @return this
   */
  public RunFilter states(RunState... alternatives) {
    states =
        Arrays.stream(Options.required(alternatives, "states"))
            .map(state -> Options.required(state, "a state").text())
            .toList();
    return this;
  }

  /**
   * Of this workflow.
   *
   * @param name its name
   * @return this
   */
  public RunFilter workflow(String name) {
    workflow = Options.required(name, "workflow");
    return this;
  }

  /**
   * Of this queue.
   *
   * @param name its name
   * @return this
   */
  public RunFilter queue(String name) {
    queue = Options.required(name, "queue");
    return this;
  }

  /**
   * Children of this run.
   *
   * @param run the parent
   * @return this
   */
  public RunFilter parent(Run<?> run) {
    parent = Options.required(run, "parent").key();
    return this;
  }

  /**
   * With this attribute.
   *
   * @param name its name
   * @param value a text, number or boolean
   * @return this
   */
  public RunFilter attribute(String name, Object value) {
    attribute = Options.required(name, "attribute");
    attributeValue = Attributes.value(name, value);
    return this;
  }

  /**
   * Started then or later.
   *
   * @param when the point in time
   * @return this
   */
  public RunFilter createdFrom(Instant when) {
    createdFrom = Options.required(when, "createdFrom");
    return this;
  }

  /**
   * Started before then.
   *
   * @param when the point in time
   * @return this
   */
  public RunFilter createdBefore(Instant when) {
    createdBefore = Options.required(when, "createdBefore");
    return this;
  }

  /**
   * The page after this one.
   *
   * @param next {@link Page#next}
   * @return this
   */
  public RunFilter after(String next) {
    after = Options.required(next, "after");
    return this;
  }

  /**
   * How many a page.
   *
   * @param count 1 to 1000, default 100
   * @return this
   */
  public RunFilter limit(int count) {
    if (count < 1 || count > 1000) {
      throw Options.invalid("limit is 1 to 1000");
    }
    limit = count;
    return this;
  }

  @Nullable List<@Nullable Object> record() {
    return Options.record(
        states,
        workflow,
        queue,
        parent,
        attribute,
        attributeValue,
        createdFrom == null ? null : Times.microseconds(createdFrom),
        createdBefore == null ? null : Times.microseconds(createdBefore),
        after,
        limit);
  }
}
