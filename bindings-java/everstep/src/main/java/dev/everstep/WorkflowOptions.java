package dev.everstep;

import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** How a workflow is declared: defaults of its runs. */
public final class WorkflowOptions extends ErrorPolicy<WorkflowOptions> {
  @Nullable String version;
  @Nullable Duration deadline;
  @Nullable String onFinish;
  @Nullable String label;

  WorkflowOptions() {}

  @Override
  WorkflowOptions self() {
    return this;
  }

  /**
   * A version that is stored with runs started here and shown ({@link RunInfo#version}); it pins
   * them to nothing.
   *
   * @param text any text
   * @return this
   */
  public WorkflowOptions version(String text) {
    version = Options.required(text, "version");
    return this;
  }

  /**
   * How long a run may take from its start; then it is cancelled.
   *
   * @param limit default none
   * @return this
   */
  public WorkflowOptions deadline(Duration limit) {
    deadline = Options.required(limit, "deadline");
    return this;
  }

  /**
   * The workflow or step that is started when a run ends, with a {@link Finished} as its input.
   *
   * @param name its name
   * @return this
   */
  public WorkflowOptions onFinish(String name) {
    onFinish = Options.required(name, "onFinish");
    return this;
  }

  /**
   * The same, of this program: a rename is found by the compiler.
   *
   * @param target a workflow or step
   * @return this
   */
  public WorkflowOptions onFinish(Startable<Finished, ?> target) {
    return onFinish(Options.required(target, "onFinish").name());
  }

  /**
   * Only workers that registered this label take the runs.
   *
   * @param text the label
   * @return this
   */
  public WorkflowOptions label(String text) {
    label = Options.required(text, "label");
    return this;
  }
}
