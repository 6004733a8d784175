package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * A registered workflow, or one of another program known by its name.
 *
 * @param <I> type of the input
 * @param <O> type of the output
 */
public final class WorkflowRef<I extends @Nullable Object, O extends @Nullable Object>
    extends Startable<I, O> {
  WorkflowRef(Engine engine, Registered function) {
    super(engine, function);
  }
}
