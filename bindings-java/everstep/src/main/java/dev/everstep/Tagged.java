package dev.everstep;

import com.fasterxml.jackson.databind.util.TokenBuffer;
import java.util.List;

/**
 * A set or a map with keys that are no strings, on its way from the text to the type that reads it.
 */
sealed interface Tagged {
  /**
   * The elements of a set.
   *
   * @param elements each the tokens of one value
   */
  record Elements(List<TokenBuffer> elements) implements Tagged {}

  /**
   * The pairs of a map.
   *
   * @param pairs key and value in turn
   */
  record Pairs(List<TokenBuffer> pairs) implements Tagged {}
}
