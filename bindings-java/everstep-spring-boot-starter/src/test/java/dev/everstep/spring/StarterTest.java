package dev.everstep.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.fail;

import dev.everstep.Everstep;
import dev.everstep.StepRef;
import dev.everstep.TransactionSource;
import dev.everstep.Workflow;
import dev.everstep.WorkflowContext;
import dev.everstep.WorkflowName;
import dev.everstep.tests.TestDatabase;
import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.sql.Connection;
import java.time.Duration;
import java.util.Collections;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.jdbc.core.JdbcTemplate;

/** The engine as part of an application. */
@Timeout(60)
final class StarterTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  @WorkflowName("greet")
  static class Greet implements Workflow<String, String> {
    private final StepRef<String, String> write;

    Greet(Everstep app) {
      write = app.step("write", String.class, String.class, name -> "Hello, " + name);
    }

    @Override
    public String run(WorkflowContext ctx, String name) {
      return write.call(ctx, name);
    }
  }

  @Configuration(proxyBeanMethods = false)
  static class Greeting {
    @Bean
    Greet greet(Everstep app) {
      return new Greet(app);
    }

    @Bean
    EverstepCustomizer mail() {
      return new EverstepCustomizer() {
        @Override
        public void declare(Everstep app) {
          app.queue("mail", options -> options.limit(1));
        }
      };
    }
  }

  static class Insert implements Workflow<Long, Long> {
    private final StepRef<Long, Long> insert;

    Insert(Everstep app, TransactionSource<Connection> source, JdbcTemplate jdbc) {
      insert =
          app.transaction(
              "insert",
              source,
              Long.class,
              Long.class,
              (connection, n) -> {
                jdbc.update("insert into spring_rows values (?)", n);
                if (n < -1) {
                  connection.commit();
                }
                if (n < 0) {
                  throw new IllegalArgumentException("negative");
                }
                return n;
              });
    }

    @Override
    public Long run(WorkflowContext ctx, Long n) {
      return insert.call(ctx, n);
    }
  }

  @Configuration(proxyBeanMethods = false)
  static class Inserting {
    @Bean
    Insert insert(Everstep app, TransactionSource<Connection> source, JdbcTemplate jdbc) {
      jdbc.execute("create table if not exists spring_rows (n bigint)");
      return new Insert(app, source, jdbc);
    }
  }

  private final ApplicationContextRunner runner =
      new ApplicationContextRunner()
          .withConfiguration(AutoConfigurations.of(EverstepAutoConfiguration.class));

  @Test
  void workflowBeansAreRegisteredLaunchedAndDrained(@TempDir Path directory)
      throws InterruptedException {
    Everstep[] kept = new Everstep[1];
    runner
        .withUserConfiguration(Greeting.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("spring.db"))
        .run(
            context -> {
              kept[0] = context.getBean(Everstep.class);
              Workflows workflows = context.getBean(Workflows.class);
              assertThat(workflows.of(Greet.class).start("Ada").result(LONG))
                  .isEqualTo("Hello, Ada");
              assertThat(kept[0].queues()).extracting(queue -> queue.name()).contains("mail");
              assertThat(Boot.status(context)).isEqualTo("UP");
              assertThat(Boot.details(context).get("store")).isEqualTo("sqlite");
              assertThat(keepsAlive()).isTrue();
            });
    assertThat(kept[0].isRunning()).isFalse();
    assertThat(letsGo()).isTrue();
  }

  /** The engine's own threads do not keep a virtual machine. */
  private static Stream<Thread> keepers() {
    return Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().equals("everstep-keep-alive") && !thread.isDaemon());
  }

  private static boolean keepsAlive() {
    return keepers().findAny().isPresent();
  }

  /** The thread ends soon after what it waits for. */
  private static boolean letsGo() throws InterruptedException {
    for (Thread keeper : keepers().toList()) {
      keeper.join(10_000);
    }
    return !keepsAlive();
  }

  @Test
  void whatIsNoWorkerKeepsNoApplicationAlive(@TempDir Path directory) {
    String database = "everstep.database=sqlite:" + directory.resolve("client.db");
    for (String setting :
        new String[] {
          "everstep.role=client", "everstep.role=starter", "everstep.keep-alive=false"
        }) {
      runner
          .withUserConfiguration(Greeting.class)
          .withPropertyValues(database, setting)
          .run(
              context -> {
                assertThat(context).hasNotFailed();
                assertThat(keepsAlive()).isFalse();
              });
    }
  }

  /** It starts runs of other programs at most. */
  @Test
  void aWorkerWithoutAWorkflowKeepsNoApplicationAlive(@TempDir Path directory) {
    runner
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("empty.db"))
        .run(
            context -> {
              assertThat(context.getBean(Everstep.class).isRunning()).isTrue();
              assertThat(keepsAlive()).isFalse();
            });
  }

  /** What a batch's runner does when its work is done: nobody is there to close the context. */
  @Test
  void aCloseOfTheEngineLetsTheApplicationEnd(@TempDir Path directory) {
    runner
        .withUserConfiguration(Greeting.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("batch.db"))
        .run(
            context -> {
              assertThat(keepsAlive()).isTrue();
              context.getBean(Everstep.class).close();
              assertThat(letsGo()).isTrue();
            });
  }

  @Test
  void everyOtherSettingOfTheEngineIsBoundToo(@TempDir Path directory) {
    String database = "everstep.database=sqlite:" + directory.resolve("settings.db");
    runner
        .withPropertyValues(
            database, "everstep.settings.lease-ms=4000", "everstep.settings.replay=always")
        .run(
            context ->
                assertThat(context.getBean(Everstep.class).info()).containsEntry("lease_ms", 4000));
    runner
        .withPropertyValues(database, "everstep.settings.leese-ms=4000")
        .run(
            context ->
                assertThat(context).getFailure().hasStackTraceContaining("[config_invalid]"));
  }

  @Test
  void stepsTakePartInSpringsTransactionsOnTheApplicationsOwnDatabase() {
    TestDatabase database = TestDatabase.postgres();
    runner
        .withConfiguration(Boot.data())
        .withUserConfiguration(Inserting.class)
        .withPropertyValues(
            "spring.datasource.url=" + database.jdbcUrl(),
            "spring.datasource.username=everstep",
            "everstep.schema=" + database.schema(),
            "everstep.auto-migrate=true")
        .run(
            context -> {
              Workflows workflows = context.getBean(Workflows.class);
              assertThat(workflows.of(Insert.class).start(7L).result(LONG)).isEqualTo(7L);
              assertThat(workflows.of(Insert.class).start(-1L).resultAsync())
                  .failsWithin(LONG)
                  .withThrowableOfType(java.util.concurrent.ExecutionException.class);
              assertThat(workflows.of(Insert.class).start(-2L).resultAsync())
                  .failsWithin(LONG)
                  .withThrowableOfType(java.util.concurrent.ExecutionException.class)
                  .withMessageContaining("commits with the checkpoint");
              JdbcTemplate jdbc = context.getBean(JdbcTemplate.class);
              assertThat(jdbc.queryForList("select n from spring_rows", Long.class))
                  .containsExactly(7L);
            });
  }

  @Test
  void editorsKnowTheProperties() throws IOException {
    String resource = "META-INF/spring-configuration-metadata.json";
    for (URL part : Collections.list(getClass().getClassLoader().getResources(resource))) {
      try (InputStream in = part.openStream()) {
        String text = new String(in.readAllBytes(), StandardCharsets.UTF_8);
        if (text.contains("\"everstep.database\"") && text.contains("\"everstep.grace\"")) {
          return;
        }
      }
    }
    fail("no " + resource + " names everstep.database and everstep.grace");
  }

  @Test
  void anApplicationMayTurnItOff() {
    runner
        .withPropertyValues("everstep.enabled=false")
        .run(context -> assertThat(context).doesNotHaveBean(Everstep.class));
  }
}
