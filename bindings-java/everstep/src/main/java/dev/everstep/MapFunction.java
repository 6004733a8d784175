package dev.everstep;

import org.jspecify.annotations.Nullable;

/**
 * One branch of map.
 *
 * @param <A> type of the item
 * @param <T> type of its value
 */
@FunctionalInterface
public interface MapFunction<A extends @Nullable Object, T extends @Nullable Object> {
  /**
   * Runs it.
   *
   * @param ctx the context of this branch; belongs to its thread
   * @param item the item
   * @return the branch's value
   * @throws Exception what it fails with; a checked one reaches the workflow as the cause of a
   *     {@link java.util.concurrent.CompletionException}
   */
  T run(WorkflowContext ctx, A item) throws Exception;
}
