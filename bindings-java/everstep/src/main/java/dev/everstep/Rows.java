package dev.everstep;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The rows of one statement on the engine's own connection. */
public final class Rows implements Iterable<List<@Nullable Object>> {
  private final List<String> columns = new ArrayList<>();
  private final List<List<@Nullable Object>> rows = new ArrayList<>();
  private final long affected;

  @SuppressWarnings("unchecked")
  Rows(Frame.Values answer) {
    for (Object column : answer.list(0)) {
      columns.add(String.valueOf(column));
    }
    for (Object row : answer.list(1)) {
      rows.add((List<@Nullable Object>) Options.required(row, "a row"));
    }
    affected = answer.number(2);
  }

  /**
   * The columns' names.
   *
   * @return names in order
   */
  public List<String> columns() {
    return List.copyOf(columns);
  }

  /**
   * How many rows the statement changed.
   *
   * @return the number
   */
  public long affected() {
    return affected;
  }

  /**
   * How many rows there are.
   *
   * @return the number
   */
  public int size() {
    return rows.size();
  }

  /**
   * The first column of the first row.
   *
   * @return the value; null when there is no row
   */
  public @Nullable Object scalar() {
    return rows.isEmpty() ? null : rows.get(0).get(0);
  }

  /**
   * The rows by column name.
   *
   * @return a map a row
   */
  public List<Map<String, @Nullable Object>> maps() {
    List<Map<String, @Nullable Object>> out = new ArrayList<>();
    for (List<@Nullable Object> row : rows) {
      Map<String, @Nullable Object> fields = new LinkedHashMap<>();
      for (int index = 0; index < columns.size(); index++) {
        fields.put(columns.get(index), row.get(index));
      }
      out.add(fields);
    }
    return out;
  }

  @Override
  public Iterator<List<@Nullable Object>> iterator() {
    return rows.iterator();
  }
}
