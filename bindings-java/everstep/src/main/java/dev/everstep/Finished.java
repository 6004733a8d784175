package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * What a workflow named by {@link RunOptions#onFinish} or {@link WorkflowOptions#onFinish} is
 * started with.
 *
 * @param run key of the run that has ended
 * @param workflow the run's workflow
 * @param state succeeded, failed or cancelled
 * @param value what the run returned, as plain values; of one that did not succeed, its error: a
 *     map of type, code, message and so on
 */
public record Finished(String run, String workflow, RunState state, @Nullable Object value) {}
