package examples;

import dev.everstep.Everstep;
import dev.everstep.StepRef;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.util.List;

/**
 * all, map, any, race: branches run on threads the engine opens, each with a context of its own.
 */
public final class Parallel {
  /**
   * Runs it.
   *
   * @param arguments none
   */
  public static void main(String[] arguments) {
    try (Everstep app = Everstep.open("sqlite:parallel.db")) {
      StepRef<String, Integer> fetch =
          app.step("fetch", String.class, Integer.class, Parallel::fetch);
      WorkflowRef<List<String>, List<Object>> crawl =
          app.workflow(
              "crawl",
              new TypeRef<List<String>>() {},
              new TypeRef<List<Object>>() {},
              (ctx, pages) -> {
                List<Integer> sizes =
                    ctx.map(pages, fetch::call, o -> o.key(page -> page).limit(2));
                List<Integer> both =
                    ctx.all(one -> fetch.call(one, "a"), two -> fetch.call(two, "bb"));
                int first =
                    ctx.any(one -> fetch.call(one, "missing"), two -> fetch.call(two, "there"));
                int winner =
                    ctx.<Integer>race(
                        one -> fetch.call(one, "here"),
                        two -> {
                          two.sleep(Duration.ofHours(1));
                          return 0;
                        });
                return List.of(sizes, both, first, winner);
              });
      app.launch();
      System.out.println(crawl.start(List.of("one", "three", "seventeen")).result());
    }
  }

  private static Integer fetch(String page) {
    if (page.equals("missing")) {
      throw new IllegalArgumentException(page);
    }
    return page.length();
  }

  private Parallel() {}
}

// Output:
// [[3, 5, 9], [1, 2], 5, 4]
