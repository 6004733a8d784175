package dev.everstep;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * One page of a list.
 *
 * @param items what is on it
 * @param next where the next page begins ({@link RunFilter#after}); null on the last one
 * @param <T> type of the items
 */
public record Page<T>(List<T> items, @Nullable String next) {}
