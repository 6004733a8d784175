package dev.everstep;

import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * How {@link WorkflowContext#map} goes about it.
 *
 * @param <A> type of the items
 */
public final class MapOptions<A> {
  @Nullable Function<? super A, String> key;
  int limit = Integer.MAX_VALUE;

  MapOptions() {}

  /**
   * Names the branches, so that items may come in another order on replay.
   *
   * @param function the key of an item, unique among them
   * @return this
   */
  public MapOptions<A> key(Function<? super A, String> function) {
    key = Options.required(function, "key");
    return this;
  }

  /**
   * So many at a time.
   *
   * @param count 1 or more; default all at once
   * @return this
   */
  public MapOptions<A> limit(int count) {
    if (count < 1) {
      throw Options.invalid("limit is at least 1");
    }
    limit = count;
    return this;
  }
}
