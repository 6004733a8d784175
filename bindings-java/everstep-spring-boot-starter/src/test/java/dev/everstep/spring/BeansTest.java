package dev.everstep.spring;

import static org.assertj.core.api.Assertions.assertThat;

import dev.everstep.Everstep;
import dev.everstep.Run;
import dev.everstep.StepRef;
import dev.everstep.TransactionSource;
import dev.everstep.Workflow;
import dev.everstep.WorkflowContext;
import dev.everstep.tests.TestDatabase;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.sql.Connection;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.context.ApplicationListener;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.event.ContextRefreshedEvent;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.transaction.annotation.Propagation;
import org.springframework.transaction.annotation.Transactional;

/** Workflows, steps and transactions among the beans of an application. */
@Timeout(60)
final class BeansTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private final ApplicationContextRunner runner =
      new ApplicationContextRunner()
          .withConfiguration(AutoConfigurations.of(EverstepAutoConfiguration.class));

  /** Proxied by Spring, for one of its methods is transactional. */
  static class Orders implements Workflow<Long, Integer> {
    private final StepRef<Long, Integer> reserve;

    Orders(StepRef<Long, Integer> reserve) {
      this.reserve = reserve;
    }

    @Override
    public Integer run(WorkflowContext ctx, Long order) {
      // Its own method's annotation is passed by here, as everywhere in Spring; a step is not.
      return own(ctx, order) + own(ctx, order + 1);
    }

    @Transactional
    Integer own(WorkflowContext ctx, Long order) {
      return reserve.call(ctx, order);
    }
  }

  static class Stock {
    private final JdbcTemplate jdbc;

    Stock(JdbcTemplate jdbc) {
      this.jdbc = jdbc;
    }

    /** Fails outside a transaction: the step's is the one it takes part in. */
    @Transactional(propagation = Propagation.MANDATORY)
    public int take(long order) {
      jdbc.update("insert into beans_rows values (?)", order);
      if (order < 0) {
        throw new IllegalArgumentException("no such order");
      }
      return 1;
    }
  }

  @Configuration(proxyBeanMethods = false)
  static class Shop {
    @Bean
    Stock stock(JdbcTemplate jdbc) {
      jdbc.execute("create table if not exists beans_rows (n bigint)");
      return new Stock(jdbc);
    }

    @Bean
    StepRef<Long, Integer> reserve(
        Everstep app, TransactionSource<Connection> source, Stock stock) {
      return app.transaction(
          "reserve", source, Long.class, Integer.class, (connection, n) -> stock.take(n));
    }

    @Bean
    Orders orders(StepRef<Long, Integer> reserve) {
      return new Orders(reserve);
    }
  }

  @Test
  void aProxiedWorkflowKeepsItsNameAndItsStepsTakePartInTransactions() {
    TestDatabase database = TestDatabase.postgres();
    runner
        .withConfiguration(Boot.data())
        .withUserConfiguration(Shop.class)
        .withPropertyValues(
            "spring.datasource.url=" + database.jdbcUrl(),
            "everstep.schema=" + database.schema(),
            "everstep.auto-migrate=true")
        .run(
            context -> {
              assertThat(context.getBean(Orders.class).getClass()).isNotEqualTo(Orders.class);
              Workflows workflows = context.getBean(Workflows.class);
              Run<Integer> run = workflows.of(Orders.class).start(7L);
              assertThat(run.result(LONG)).isEqualTo(2);
              assertThat(run.status().workflow()).isEqualTo("Orders");
              assertThat(run.steps()).extracting(step -> step.kind()).hasSize(2);
              assertThat(workflows.of(Orders.class).start(-1L).resultAsync())
                  .failsWithin(LONG)
                  .withThrowableOfType(java.util.concurrent.ExecutionException.class);
              assertThat(
                      context
                          .getBean(JdbcTemplate.class)
                          .queryForList("select n from beans_rows order by n", Long.class))
                  .containsExactly(7L, 8L);
            });
  }

  static class Slow implements Workflow<String, String> {
    static final CountDownLatch STARTED = new CountDownLatch(1);
    static final CountDownLatch GO = new CountDownLatch(1);
    private final StepRef<String, String> step;

    Slow(Everstep app) {
      step =
          app.step(
              "slow",
              String.class,
              String.class,
              in -> {
                STARTED.countDown();
                GO.await();
                return in;
              });
    }

    @Override
    public String run(WorkflowContext ctx, String in) {
      return step.call(ctx, in);
    }
  }

  /** Used by the step until the engine has drained. */
  static class Resource {
    static final AtomicInteger CLOSED_BEFORE = new AtomicInteger();

    public void close() {
      if (Slow.GO.getCount() > 0) {
        CLOSED_BEFORE.incrementAndGet();
      }
    }
  }

  @Configuration(proxyBeanMethods = false)
  static class Slowly {
    @Bean
    Slow slow(Everstep app) {
      return new Slow(app);
    }

    @Bean
    Resource resource() {
      return new Resource();
    }
  }

  @Test
  void aShutdownLetsRunsFinishAndHealthSaysSo(@TempDir Path directory) {
    AtomicReference<CompletableFuture<String>> result = new AtomicReference<>();
    CompletableFuture<String> status = new CompletableFuture<>();
    Thread[] opener = new Thread[1];
    runner
        .withUserConfiguration(Slowly.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("slow.db"))
        .run(
            context -> {
              Everstep app = context.getBean(Everstep.class);
              assertThat(Boot.status(context)).isEqualTo("UP");
              result.set(context.getBean(Workflows.class).of(Slow.class).start("x").resultAsync());
              Slow.STARTED.await();
              opener[0] =
                  new Thread(
                      () -> {
                        // The step ends only when the drain has begun.
                        while (app.isRunning()) {
                          Thread.onSpinWait();
                        }
                        status.complete(Boot.status(context));
                        Slow.GO.countDown();
                      });
              opener[0].start();
            });
    assertThat(result.get()).succeedsWithin(LONG).isEqualTo("x");
    assertThat(status).succeedsWithin(LONG).isEqualTo("OUT_OF_SERVICE");
    assertThat(Resource.CLOSED_BEFORE).hasValue(0);
  }

  @Configuration(proxyBeanMethods = false)
  static class Loading {
    @Bean
    Loader loader(Everstep app) {
      return new Loader(app);
    }
  }

  static class Loader implements Workflow<String, Boolean> {
    static final CompletableFuture<ClassLoader> SEEN = new CompletableFuture<>();
    private final StepRef<String, Boolean> look;

    Loader(Everstep app) {
      look =
          app.step(
              "look",
              String.class,
              Boolean.class,
              in -> SEEN.complete(Thread.currentThread().getContextClassLoader()));
    }

    @Override
    public Boolean run(WorkflowContext ctx, String in) {
      return look.call(ctx, in);
    }
  }

  /** The developer tools start the application in a class loader above the library's. */
  @Test
  void stepsSeeTheClassLoaderTheApplicationWasStartedIn(@TempDir Path directory) throws Exception {
    ClassLoader before = Thread.currentThread().getContextClassLoader();
    try (URLClassLoader restarted = new URLClassLoader(new URL[0], before)) {
      Thread.currentThread().setContextClassLoader(restarted);
      runner
          .withUserConfiguration(Loading.class)
          .withPropertyValues("everstep.database=sqlite:" + directory.resolve("loader.db"))
          .run(
              context -> context.getBean(Workflows.class).of(Loader.class).start("x").result(LONG));
      assertThat(Loader.SEEN.get(30, TimeUnit.SECONDS)).isSameAs(restarted);
    } finally {
      Thread.currentThread().setContextClassLoader(before);
    }
  }

  @Configuration(proxyBeanMethods = false)
  static class Refused {
    static final AtomicReference<Everstep> APP = new AtomicReference<>();

    @Bean
    ApplicationListener<ContextRefreshedEvent> refuses(Everstep app) {
      return event -> {
        APP.set(app);
        throw new IllegalStateException("no");
      };
    }
  }

  /** It would claim runs for beans that are destroyed. */
  @Test
  void aStartThatFailsBehindTheLaunchClosesTheEngine(@TempDir Path directory) {
    runner
        .withUserConfiguration(Refused.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("refused.db"))
        .run(context -> assertThat(context).hasFailed());
    assertThat(Refused.APP.get().isRunning()).isFalse();
    assertThat(Thread.getAllStackTraces().keySet())
        .noneMatch(thread -> thread.getName().equals("everstep-keep-alive"));
  }
}
