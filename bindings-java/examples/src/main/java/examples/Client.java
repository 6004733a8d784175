package examples;

import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.WorkflowRef;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/** A client without a worker: it starts, inspects and awaits runs that another process executes. */
public final class Client {
  /**
   * Runs it.
   *
   * @param arguments none
   */
  public static void main(String[] arguments) {
    // Stands for another process.
    try (Everstep worker = Everstep.open("sqlite:client.db")) {
      worker.queue("mail", options -> options.limit(2));
      worker.step("deliver", String.class, String.class, address -> "delivered to " + address);
      worker.launch();
      try (Everstep client = Everstep.open(o -> o.database("sqlite:client.db").client())) {
        // A declared step is a job: one row, one commit.
        WorkflowRef<String, String> deliver =
            client.reference("deliver", String.class, String.class);
        List<Run<String>> runs =
            deliver.startMany(
                List.of("ann", "bob", "cy"),
                who -> "mail-" + who,
                o -> o.queue("mail").attributes(Map.of("campaign", "may")));
        System.out.println(runs.stream().map(run -> run.result(Duration.ofSeconds(30))).toList());
        var page = client.runs(filter -> filter.queue("mail").attribute("campaign", "may"));
        System.out.println(
            page.items().stream().map(info -> info.id() + " " + info.state()).sorted().toList());
      }
    }
  }

  private Client() {}
}

// Output:
// [delivered to ann, delivered to bob, delivered to cy]
// [mail-ann succeeded, mail-bob succeeded, mail-cy succeeded]
