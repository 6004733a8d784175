package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import dev.everstep.Isolation;
import dev.everstep.RunFailed;
import dev.everstep.StepContext;
import dev.everstep.StepFailed;
import dev.everstep.StepRef;
import dev.everstep.StepTimeout;
import dev.everstep.TransactionFunction;
import dev.everstep.TransactionSource;
import dev.everstep.TypeRef;
import dev.everstep.WorkflowRef;
import dev.everstep.jdbi.JdbiTransactions;
import dev.everstep.jooq.JooqTransactions;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.jdbi.v3.core.Jdbi;
import org.jooq.ConnectionProvider;
import org.jooq.SQLDialect;
import org.jooq.impl.DSL;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.postgresql.PGConnection;
import org.postgresql.jdbc.PgConnection;

/** Rows and checkpoint commit together, whichever driver the rows go through. */
@Timeout(60)
final class TransactionsTest {
  private static final Duration LONG = Duration.ofSeconds(30);

  private final TestDatabase database = TestDatabase.postgres();
  private final Everstep app = Everstep.open(database::apply);
  private final String table = "rows_" + database.schema();
  private HikariDataSource pool;

  @BeforeEach
  void open() throws SQLException {
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl(database.jdbcUrl());
    config.setMaximumPoolSize(4);
    pool = new HikariDataSource(config);
    sql("create table " + table + " (n bigint)");
  }

  @AfterEach
  void close() {
    app.close(Duration.ofSeconds(1));
    pool.close();
  }

  private void sql(String statement) throws SQLException {
    try (Connection connection = pool.getConnection();
        Statement run = connection.createStatement()) {
      run.execute(statement);
    }
  }

  private long count() throws SQLException {
    try (Connection connection = pool.getConnection();
        Statement run = connection.createStatement();
        ResultSet rows = run.executeQuery("select count(*) from " + table)) {
      rows.next();
      return rows.getLong(1);
    }
  }

  private long runs(StepRef<Long, Long> step) {
    WorkflowRef<Long, Long> workflow =
        app.workflow("w", Long.class, Long.class, (ctx, n) -> step.call(ctx, n));
    app.launch();
    return workflow.start(7L).result(LONG);
  }

  private Long insert(Connection connection, Long n) throws SQLException {
    try (PreparedStatement run =
        connection.prepareStatement("insert into " + table + " values (?)")) {
      run.setLong(1, n);
      run.execute();
    }
    return n;
  }

  /** Overloaded, as a program's methods are: each form takes a reference to it. */
  private Long insert(StepContext step, Connection connection, Long n) throws SQLException {
    return insert(connection, n + step.attempt() - 1);
  }

  @Test
  void jdbc() throws SQLException {
    assertEquals(7, runs(app.transaction("t", pool, Long.class, Long.class, this::insert)));
    assertEquals(1, count());
  }

  /** What it wrote would stand without the checkpoint, and be written again. */
  @Test
  void aFunctionCannotEndItsTransaction() throws SQLException {
    StepRef<Long, Long> step =
        app.transaction(
            "t",
            pool,
            Long.class,
            Long.class,
            (connection, n) -> {
              insert(connection, n);
              connection.setAutoCommit(false);
              connection.rollback(connection.setSavepoint());
              connection.close();
              if (n == 7) {
                connection.commit();
              }
              return n;
            });
    RunFailed failed = assertThrows(RunFailed.class, () -> runs(step));
    assertTrue(failed.getMessage().contains("commits with the checkpoint"), failed.getMessage());
    assertEquals(0, count());
  }

  /** Not once: its attempts are up after the first, which is refused for what it does. */
  private <T> void cannotCommit(
      TransactionSource<T> source, TransactionFunction<T, Long, Long> step) throws SQLException {
    AtomicInteger attempts = new AtomicInteger();
    TransactionFunction<T, Long, Long> counted =
        (tx, n) -> {
          attempts.incrementAndGet();
          return step.run(tx, n);
        };
    StepRef<Long, Long> declared =
        app.transaction(
            "t",
            source,
            Long.class,
            Long.class,
            counted,
            o -> o.maxAttempts(3).initialInterval(Duration.ofMillis(1)));
    RunFailed failed = assertThrows(RunFailed.class, () -> runs(declared));
    boolean refused = false;
    for (Throwable at = failed; at != null; at = at.getCause()) {
      refused |=
          at instanceof EverstepException known && known.code() == ErrorCode.TRANSACTION_FAILED;
    }
    assertTrue(refused, failed.toString());
    assertEquals(1, attempts.get());
    assertEquals(0, count());
  }

  @Test
  void jdbcCannotCommit() throws SQLException {
    cannotCommit(
        TransactionSource.jdbc(pool),
        (connection, n) -> {
          insert(connection, n);
          connection.commit();
          return n;
        });
  }

  @Test
  void noWayAroundTheLentConnectionCommits() throws SQLException {
    cannotCommit(
        TransactionSource.jdbc(pool),
        (connection, n) -> {
          insert(connection, n);
          // The driver's extras are there all the same.
          assertTrue(connection.unwrap(PGConnection.class).getBackendPID() > 0);
          assertFalse(connection.unwrap(PGConnection.class) instanceof Connection);
          assertSame(connection, connection.unwrap(Connection.class));
          assertSame(connection, connection.getMetaData().getConnection());
          for (Executable way :
              List.<Executable>of(
                  () -> connection.unwrap(PgConnection.class).commit(),
                  () -> connection.createStatement().getConnection().commit(),
                  () -> connection.prepareCall("select 1").getConnection().commit())) {
            EverstepException refused = assertThrows(EverstepException.class, way);
            assertEquals(ErrorCode.TRANSACTION_FAILED, refused.code());
          }
          connection.prepareStatement("select 1").getConnection().commit();
          return n;
        });
  }

  @Test
  void aNestedTransactionOfJooqCannotCommit() throws SQLException {
    cannotCommit(
        JooqTransactions.of(DSL.using(pool, SQLDialect.POSTGRES)),
        (dsl, n) -> {
          dsl.transaction(inner -> inner.dsl().execute("insert into " + table + " values (?)", n));
          return n;
        });
  }

  @Test
  void aConnectionOnWhichJooqCannotBeginIsGivenBack() {
    AtomicInteger released = new AtomicInteger();
    ConnectionProvider gone =
        new ConnectionProvider() {
          @Override
          public Connection acquire() {
            try (Connection connection = pool.getConnection()) {
              return connection;
            } catch (SQLException error) {
              throw new IllegalStateException(error);
            }
          }

          @Override
          public void release(Connection connection) {
            released.incrementAndGet();
          }
        };
    var source = JooqTransactions.of(DSL.using(gone, SQLDialect.POSTGRES));
    assertThrows(SQLException.class, source::open);
    assertEquals(1, released.get());
  }

  @Test
  void aHandleOfJdbiCannotCommit() throws SQLException {
    Jdbi jdbi = Jdbi.create(pool);
    JdbiTransactions.of(jdbi);
    cannotCommit(
        JdbiTransactions.of(jdbi),
        (handle, n) -> {
          handle.execute("insert into " + table + " values (?)", n);
          handle.commit();
          return n;
        });
    // The program's own handles are as before, and the pool's connections too.
    jdbi.useTransaction(handle -> handle.execute("insert into " + table + " values (1)"));
    sql("insert into " + table + " values (2)");
    assertEquals(2, count());
  }

  @Test
  void aTransactionIsNoJobAndNotAtMostOnce() {
    EverstepException once =
        assertThrows(
            EverstepException.class,
            () ->
                app.transaction(
                    "once", pool, Long.class, Long.class, this::insert, o -> o.atMostOnce()));
    assertEquals(ErrorCode.CONFIG_INVALID, once.code());
    StepRef<Long, Long> step = app.transaction("t", pool, Long.class, Long.class, this::insert);
    WorkflowRef<Long, Long> named = app.reference("t", Long.class, Long.class);
    app.launch();
    // Nobody is told of a transaction: the run would wait for ever.
    List<Executable> starts =
        List.of(
            () -> step.start(1L),
            () -> step.startAsync(1L, o -> {}),
            () -> step.startMany(List.of(1L), null, o -> {}),
            () -> named.start(1L));
    for (Executable start : starts) {
      EverstepException refused = assertThrows(EverstepException.class, start);
      assertEquals(ErrorCode.CONFIG_INVALID, refused.code(), refused.getMessage());
    }
  }

  @Test
  void jooq() throws SQLException {
    var source = JooqTransactions.of(DSL.using(pool, SQLDialect.POSTGRES));
    assertEquals(
        7,
        runs(
            app.transaction(
                "t",
                source,
                Long.class,
                Long.class,
                (dsl, n) -> {
                  dsl.execute("insert into " + table + " values (?)", n);
                  return n;
                })));
    assertEquals(1, count());
  }

  @Test
  void jdbi() throws SQLException {
    assertEquals(
        7,
        runs(
            app.transaction(
                "t",
                JdbiTransactions.of(Jdbi.create(pool)),
                Long.class,
                Long.class,
                (handle, n) -> {
                  handle.execute("insert into " + table + " values (?)", n);
                  return n;
                })));
    assertEquals(1, count());
  }

  @Test
  void theEnginesOwnConnection() throws SQLException {
    assertEquals(
        7,
        runs(
            app.transaction(
                "t",
                Long.class,
                Long.class,
                (tx, n) -> {
                  assertEquals(
                      1, tx.execute("insert into " + table + " values ($1)", n).affected());
                  return (Long) tx.execute("select n from " + table).scalar();
                })));
    assertEquals(1, count());
  }

  @Test
  void aFailureLeavesNothingAndAConflictRunsAgain() throws SQLException {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Long, Long> fails =
        app.transaction(
            "fails",
            pool,
            Long.class,
            Long.class,
            (connection, n) -> {
              insert(connection, n);
              throw new IllegalStateException("no");
            });
    StepRef<Long, Long> conflicts =
        app.transaction(
            "conflicts",
            pool,
            Long.class,
            Long.class,
            (connection, n) -> {
              insert(connection, n);
              if (attempts.incrementAndGet() < 3) {
                throw new SQLException("made up", "40001");
              }
              return n;
            });
    WorkflowRef<Long, Long> workflow =
        app.workflow(
            "w",
            Long.class,
            Long.class,
            (ctx, n) -> {
              assertThrows(EverstepException.class, () -> fails.call(ctx, n));
              return conflicts.call(ctx, n);
            });
    app.launch();
    assertEquals(7, workflow.start(7L).result(LONG));
    assertEquals(3, attempts.get());
    assertEquals(1, count());
  }

  private <T> void isolated(TransactionSource<T> source, Level<T> level) {
    StepRef<List<Long>, String> step =
        app.transaction(
            "t",
            source,
            new TypeRef<List<Long>>() {},
            TypeRef.of(String.class),
            (tx, n) -> level.of(tx));
    WorkflowRef<Long, String> workflow =
        app.workflow("w", Long.class, String.class, (ctx, n) -> step.call(ctx, List.of(n)));
    app.launch();
    assertEquals("serializable", workflow.start(7L).result(LONG));
  }

  private interface Level<T> {
    String of(T tx) throws SQLException;
  }

  private static String level(Connection connection) throws SQLException {
    try (Statement run = connection.createStatement();
        ResultSet rows = run.executeQuery("show transaction_isolation")) {
      rows.next();
      return rows.getString(1);
    }
  }

  @Test
  void jdbcAtAnIsolationLevelLeavesThePoolAsItWas() throws SQLException {
    isolated(TransactionSource.jdbc(pool, Isolation.SERIALIZABLE), TransactionsTest::level);
    try (Connection connection = pool.getConnection()) {
      assertEquals("read committed", level(connection));
    }
  }

  @Test
  void jooqAtAnIsolationLevel() {
    isolated(
        JooqTransactions.of(DSL.using(pool, SQLDialect.POSTGRES), Isolation.SERIALIZABLE),
        dsl -> dsl.fetchValue("show transaction_isolation").toString());
  }

  @Test
  void jdbiAtAnIsolationLevel() {
    isolated(
        JdbiTransactions.of(Jdbi.create(pool), Isolation.SERIALIZABLE),
        handle -> handle.createQuery("show transaction_isolation").mapTo(String.class).one());
  }

  /** Whatever is given, told about its attempt or not, with options or without. */
  @Test
  void everyFormIsDeclaredAndRuns() throws SQLException {
    TypeRef<Long> type = TypeRef.of(Long.class);
    List<StepRef<Long, Long>> steps =
        List.of(
            app.transaction("a", pool, type, type, this::insert),
            app.transaction("b", pool, type, type, this::insert, o -> o.maxAttempts(2)),
            app.transactionWithContext("c", pool, type, type, this::insert),
            app.transactionWithContext("d", pool, Long.class, Long.class, this::insert),
            app.transactionWithContext("e", type, type, (step, tx, n) -> n),
            app.transactionWithContext(
                "f", Long.class, Long.class, (step, tx, n) -> n + step.attempt() - 1));
    WorkflowRef<Long, Long> workflow =
        app.workflow(
            "w",
            Long.class,
            Long.class,
            (ctx, n) -> {
              for (StepRef<Long, Long> step : steps) {
                assertEquals(n, step.call(ctx, n));
              }
              return n;
            });
    app.launch();
    assertEquals(7, workflow.start(7L).result(LONG));
    assertEquals(4, count());
  }

  /** What another server says tells nothing of this transaction: its effects are not repeated. */
  @Test
  void aConnectionLostElsewhereFailsTheStepAsItSays() throws SQLException {
    AtomicInteger attempts = new AtomicInteger();
    StepRef<Long, Long> step =
        app.transaction(
            "t",
            pool,
            Long.class,
            Long.class,
            (connection, n) -> {
              attempts.incrementAndGet();
              insert(connection, n);
              DriverManager.getConnection("jdbc:postgresql://127.0.0.1:1/nobody").close();
              return n;
            },
            o -> o.maxAttempts(2).initialInterval(Duration.ofMillis(1)));
    RunFailed failed = assertThrows(RunFailed.class, () -> runs(step));
    assertTrue(failed.getMessage().contains("127.0.0.1"), failed.getMessage());
    assertEquals(2, attempts.get());
    assertEquals(0, count());
  }

  private static <T> StepRef<Long, Long> killedOnce(
      Everstep app, TransactionSource<T> source, TransactionFunction<T, Long, Long> kills) {
    AtomicInteger attempts = new AtomicInteger();
    return app.transaction(
        "t",
        source,
        Long.class,
        Long.class,
        (tx, n) -> attempts.incrementAndGet() == 1 ? kills.run(tx, n) : n + attempts.get(),
        o -> o.maxAttempts(1));
  }

  private static final String KILL = "select pg_terminate_backend(pg_backend_pid())";

  @Test
  void itsOwnLostConnectionIsNoAttempt() {
    assertEquals(
        9,
        runs(
            killedOnce(
                app,
                TransactionSource.jdbc(pool),
                (connection, n) -> {
                  try (Statement run = connection.createStatement()) {
                    run.execute(KILL);
                  }
                  return n;
                })));
  }

  @Test
  void itsOwnLostConnectionIsNoAttemptOnJooqAndJdbi() {
    StepRef<Long, Long> jooq =
        killedOnce(
            app,
            JooqTransactions.of(DSL.using(pool, SQLDialect.POSTGRES)),
            (dsl, n) -> (long) dsl.execute(KILL));
    assertEquals(9, runs(jooq));
    try (Everstep other = Everstep.open(database::apply)) {
      StepRef<Long, Long> jdbi =
          killedOnce(
              other,
              JdbiTransactions.of(Jdbi.create(pool)),
              (handle, n) -> (long) handle.execute(KILL));
      WorkflowRef<Long, Long> workflow =
          other.workflow("other", Long.class, Long.class, (ctx, n) -> jdbi.call(ctx, n));
      other.launch();
      assertEquals(9, workflow.start(7L).result(LONG));
    }
  }

  /** Its time goes on between two tries: else nothing would bound the next one. */
  @Test
  void aTimeoutDuringTheBackOffOfAConflictHolds() {
    long begun = System.nanoTime();
    StepRef<Long, Long> step =
        app.transaction(
            "t",
            pool,
            Long.class,
            Long.class,
            (connection, n) -> {
              if (System.nanoTime() - begun < Duration.ofSeconds(4).toNanos()) {
                throw new SQLException("made up", "40001");
              }
              Thread.sleep(LONG.toMillis());
              return n;
            },
            o -> o.timeout(Duration.ofSeconds(2)).maxAttempts(1));
    RunFailed failed = assertThrows(RunFailed.class, () -> runs(step));
    assertTrue(failed.getCause() instanceof StepTimeout, failed.toString());
  }

  @Test
  void anotherDatabaseIsRefusedAndNothingOfItKept() throws SQLException {
    sql("create database other_" + database.schema());
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl(
        database.jdbcUrl().replace("/postgres?", "/other_" + database.schema() + "?"));
    config.setMaximumPoolSize(1);
    try (HikariDataSource other = new HikariDataSource(config)) {
      StepRef<Long, Long> step =
          app.transaction(
              "t",
              TransactionSource.jdbc(other),
              Long.class,
              Long.class,
              (connection, n) -> {
                try (Statement run = connection.createStatement()) {
                  run.execute("create table mine (n bigint)");
                }
                return n;
              });
      WorkflowRef<Long, String> workflow =
          app.workflow(
              "w",
              Long.class,
              String.class,
              (ctx, n) -> {
                try {
                  return String.valueOf(step.call(ctx, n));
                } catch (StepFailed error) { // whatever a step has failed with
                  return error.code().text();
                }
              });
      app.launch();
      assertEquals("other_database", workflow.start(7L).result(LONG));
      try (Connection connection = other.getConnection();
          Statement run = connection.createStatement();
          ResultSet rows = run.executeQuery("select to_regclass('mine')")) {
        rows.next();
        assertEquals(null, rows.getString(1));
      }
    }
  }

  @Test
  void onSqliteADataSourceIsRefusedBeforeItIsOpened() {
    try (Everstep sqlite = Everstep.open(TestDatabase.sqlite()::apply)) {
      EverstepException error =
          assertThrows(
              EverstepException.class,
              () -> sqlite.transaction("t", pool, Long.class, Long.class, this::insert));
      assertEquals(ErrorCode.OTHER_DATABASE, error.code());
    }
  }
}
