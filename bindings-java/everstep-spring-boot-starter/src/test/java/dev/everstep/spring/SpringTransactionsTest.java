package dev.everstep.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.StepRef;
import dev.everstep.TransactionSource;
import dev.everstep.WorkflowRef;
import dev.everstep.tests.TestDatabase;
import java.sql.Connection;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicInteger;
import javax.sql.DataSource;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.jdbc.datasource.DriverManagerDataSource;
import org.springframework.transaction.PlatformTransactionManager;
import org.springframework.transaction.TransactionDefinition;
import org.springframework.transaction.support.AbstractPlatformTransactionManager;
import org.springframework.transaction.support.DefaultTransactionDefinition;
import org.springframework.transaction.support.DefaultTransactionStatus;
import org.springframework.transaction.support.TransactionSynchronization;
import org.springframework.transaction.support.TransactionSynchronizationManager;

/** Managers and data sources that do not fit, listeners that throw. */
@Timeout(60)
final class SpringTransactionsTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private final TestDatabase database = TestDatabase.postgres();
  private final DataSource dataSource = new DriverManagerDataSource(database.jdbcUrl());
  private final JdbcTemplate jdbc = new JdbcTemplate(dataSource);
  private final String table = "spring_" + database.schema();
  private final AtomicInteger calls = new AtomicInteger();

  /** The code and text of what the step failed with. */
  private String outcome(TransactionSource<Connection> source, Runnable inside) {
    jdbc.execute("create table " + table + " (n bigint)");
    try (Everstep app = Everstep.open(database::apply)) {
      StepRef<Long, Long> step =
          app.transaction(
              "t",
              source,
              Long.class,
              Long.class,
              (connection, n) -> {
                calls.incrementAndGet();
                jdbc.update("insert into " + table + " values (?)", n);
                inside.run();
                return n;
              });
      WorkflowRef<Long, String> work =
          app.workflow(
              "w",
              Long.class,
              String.class,
              (ctx, n) -> {
                try {
                  return "stored " + step.call(ctx, n);
                } catch (EverstepException error) {
                  return error.code().text() + " " + error.getMessage();
                }
              });
      app.launch();
      return work.start(7L).result(LONG);
    }
  }

  private Long rows() {
    return jdbc.queryForObject("select count(*) from " + table, Long.class);
  }

  /** It begins nothing: each statement would commit by itself. */
  static final class Nothing extends AbstractPlatformTransactionManager {
    private static final long serialVersionUID = 1L;

    @Override
    protected Object doGetTransaction() {
      return this;
    }

    @Override
    protected void doBegin(Object transaction, TransactionDefinition definition) {}

    @Override
    protected void doCommit(DefaultTransactionStatus status) {}

    @Override
    protected void doRollback(DefaultTransactionStatus status) {}
  }

  @Test
  void aManagerOfSomethingElseIsRefused() {
    String said = outcome(SpringTransactions.of(new Nothing(), dataSource), () -> {});
    assertThat(said).startsWith("config_invalid").contains("belong together");
    assertThat(calls).hasValue(0);
    PlatformTransactionManager other =
        new DataSourceTransactionManager(new DriverManagerDataSource(database.jdbcUrl()));
    assertThatThrownBy(() -> SpringTransactions.of(other, dataSource).open())
        .isInstanceOf(EverstepException.class)
        .hasMessageContaining("belong together");
    assertThat(TransactionSynchronizationManager.isActualTransactionActive()).isFalse();
  }

  @Test
  void aDefinitionSaysItsIsolation() {
    PlatformTransactionManager manager = new DataSourceTransactionManager(dataSource);
    DefaultTransactionDefinition definition = new DefaultTransactionDefinition();
    definition.setIsolationLevel(TransactionDefinition.ISOLATION_SERIALIZABLE);
    definition.setPropagationBehavior(TransactionDefinition.PROPAGATION_SUPPORTS);
    String[] level = new String[1];
    String said =
        outcome(
            SpringTransactions.of(manager, dataSource, definition),
            () -> level[0] = jdbc.queryForObject("show transaction_isolation", String.class));
    assertThat(said).isEqualTo("stored 7");
    assertThat(level[0]).isEqualTo("serializable");
  }

  @Test
  void itsOwnManagerIsTaken() {
    PlatformTransactionManager manager = new DataSourceTransactionManager(dataSource);
    assertThat(outcome(SpringTransactions.of(manager, dataSource), () -> {})).isEqualTo("stored 7");
    assertThat(rows()).isEqualTo(1);
  }

  /** Not a COMMIT whose answer was lost: that would be asked for, and run again, sixty times. */
  @Test
  void aListenerThatThrowsBeforeTheCommitFailsTheStepOnce() {
    PlatformTransactionManager manager = new DataSourceTransactionManager(dataSource);
    String said =
        outcome(
            SpringTransactions.of(manager, dataSource),
            () ->
                TransactionSynchronizationManager.registerSynchronization(
                    new TransactionSynchronization() {
                      @Override
                      public void beforeCommit(boolean readOnly) {
                        throw new IllegalStateException("a listener says no");
                      }
                    }));
    assertThat(said).startsWith("step_failed").contains("a listener says no");
    assertThat(calls).hasValue(1);
    assertThat(rows()).isEqualTo(0);
  }
}
