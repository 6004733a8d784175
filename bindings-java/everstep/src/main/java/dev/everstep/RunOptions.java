package dev.everstep;

import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * How a run is started. What is not said is the registration's default, then the engine's: the
 * retries of a start are laid over the registration's, one by one.
 */
public final class RunOptions extends RetryOptions<RunOptions> {
  @Nullable String id;
  @Nullable String parentClose;
  private @Nullable String queue;
  private @Nullable String label;
  private @Nullable Long priority;
  private @Nullable Duration delay;
  private @Nullable Instant startAt;
  private @Nullable Duration expires;
  private @Nullable Duration deadline;
  private @Nullable String version;
  private @Nullable String attributes;
  private @Nullable String fairnessKey;
  private @Nullable Long cost;
  private @Nullable String createdBy;
  private @Nullable Dedup dedup;
  private @Nullable String onFinish;
  private @Nullable String traceParent;
  private @Nullable String traceState;
  private @Nullable Boolean reusePurged;
  private @Nullable Boolean unchecked;

  RunOptions() {}

  /** Only what {@code configurer} says: the engine knows what the registration says. */
  static RunOptions of(Registered function, @Nullable Consumer<RunOptions> configurer) {
    RunOptions out = new RunOptions();
    if (configurer != null) {
      configurer.accept(out);
    }
    if (out.timeout != null && function.kind.equals(Registered.WORKFLOW) && !function.isForeign()) {
      throw Options.invalid(
          "timeout bounds an attempt of a job, and "
              + function.name
              + " is a workflow: give it a deadline");
    }
    return out;
  }

  @Override
  RunOptions self() {
    return this;
  }

  /**
   * Names the run: a second start of the same id attaches to it.
   *
   * @param text 1 to 255 bytes of UTF-8 without control characters
   * @return this
   */
  public RunOptions id(String text) {
    id = Options.required(text, "id");
    return this;
  }

  /**
   * The queue it waits in.
   *
   * @param name the queue's name
   * @return this
   */
  public RunOptions queue(String name) {
    queue = Options.required(name, "queue");
    return this;
  }

  /**
   * Only workers that registered this label take the run.
   *
   * @param text the label
   * @return this
   */
  public RunOptions label(String text) {
    label = Options.required(text, "label");
    return this;
  }

  /**
   * Order within a queue: the lowest number goes first.
   *
   * @param number -100000 to 100000, default 0
   * @return this
   */
  public RunOptions priority(int number) {
    priority = (long) number;
    return this;
  }

  /**
   * Starts no sooner than so long from now.
   *
   * @param time how long
   * @return this
   */
  public RunOptions delay(Duration time) {
    delay = Options.required(time, "delay");
    return this;
  }

  /**
   * Starts no sooner than then.
   *
   * @param when the point in time
   * @return this
   */
  public RunOptions startAt(Instant when) {
    startAt = Options.required(when, "startAt");
    return this;
  }

  /**
   * Is cancelled when it has not started so long from now.
   *
   * @param time how long
   * @return this
   */
  public RunOptions expires(Duration time) {
    expires = Options.required(time, "expires");
    return this;
  }

  /**
   * Is cancelled when it has not ended so long from now.
   *
   * @param time how long
   * @return this
   */
  public RunOptions deadline(Duration time) {
    deadline = Options.required(time, "deadline");
    return this;
  }

  /**
   * A version that is stored with the run and shown ({@link RunInfo#version}); it pins the run to
   * nothing. The build of the program is {@link EngineOptions#version}.
   *
   * @param text the version
   * @return this
   */
  public RunOptions version(String text) {
    version = Options.required(text, "version");
    return this;
  }

  /**
   * What {@link Everstep#runs} can filter by.
   *
   * @param values texts, finite numbers and booleans by name
   * @return this
   * @throws EverstepException {@code payload_invalid} names one that is none
   */
  public RunOptions attributes(Map<String, ?> values) {
    attributes = Attributes.of(values);
    return this;
  }

  /**
   * What a queue's {@link QueueOptions#keyLimit} counts by: at most that many runs of one key at a
   * time. Without a key limit it changes nothing.
   *
   * @param key the key
   * @return this
   */
  public RunOptions fairnessKey(String key) {
    fairnessKey = Options.required(key, "fairnessKey");
    return this;
  }

  /**
   * Stored with the run and shown ({@link RunInfo#cost}). No limit counts by it yet.
   *
   * @param number default 1
   * @return this
   */
  public RunOptions cost(int number) {
    cost = (long) number;
    return this;
  }

  /**
   * Who starts it, for people.
   *
   * @param text a name
   * @return this
   */
  public RunOptions createdBy(String text) {
    createdBy = Options.required(text, "createdBy");
    return this;
  }

  /**
   * At most one run a key.
   *
   * @param rule the rule
   * @return this
   */
  public RunOptions dedup(Dedup rule) {
    dedup = Options.required(rule, "dedup");
    return this;
  }

  /**
   * The workflow or step that is started when the run ends, with a {@link Finished} as its input,
   * in the commit that ends it.
   *
   * @param name its name
   * @return this
   */
  public RunOptions onFinish(String name) {
    onFinish = Options.required(name, "onFinish");
    return this;
  }

  /**
   * The same, of this program: a rename is found by the compiler.
   *
   * @param target a workflow or step
   * @return this
   */
  public RunOptions onFinish(Startable<Finished, ?> target) {
    return onFinish(Options.required(target, "onFinish").name());
  }

  /**
   * The W3C trace context it belongs to.
   *
   * @param parent the header {@code traceparent}
   * @param state the header {@code tracestate}, or null
   * @return this
   */
  public RunOptions trace(String parent, @Nullable String state) {
    traceParent = Options.required(parent, "traceParent");
    traceState = state;
    return this;
  }

  /**
   * Starts anew although a run of this id existed and was removed by retention.
   *
   * @return this
   */
  public RunOptions reusePurged() {
    reusePurged = true;
    return this;
  }

  /**
   * Starts a workflow although its name is known to nobody yet and nearly one that is ({@code
   * unknown_workflow}): where the program that has it is deployed later.
   *
   * @return this
   */
  public RunOptions unchecked() {
    unchecked = true;
    return this;
  }

  /**
   * How long an attempt may take, of a step that is started as a job; of a workflow, see {@link
   * #deadline}.
   *
   * @param limit default: as the step was declared; zero: none
   * @return this
   */
  public RunOptions timeout(Duration limit) {
    timeout = Options.notNegative(limit, "timeout");
    return this;
  }

  /**
   * A child run goes on when its parent ends; without this a child still open then is cancelled,
   * however the parent ended.
   *
   * @return this
   */
  public RunOptions abandonOnClose() {
    parentClose = "abandon";
    return this;
  }

  /** RUN_OPTIONS of {@code ops.toml}. */
  @Nullable List<@Nullable Object> record() {
    return Options.record(
        id,
        queue,
        label,
        priority,
        Options.milliseconds(delay),
        startAt == null ? null : Times.microseconds(startAt),
        Options.milliseconds(expires),
        Options.milliseconds(deadline),
        version,
        attributes,
        fairnessKey,
        cost,
        createdBy,
        dedup == null ? null : dedup.key,
        dedup == null ? null : dedup.scope,
        dedup == null ? null : dedup.policy,
        dedup == null ? null : dedup.ttlMillis,
        policy(),
        onFinish,
        traceParent,
        traceState,
        reusePurged,
        unchecked);
  }
}
