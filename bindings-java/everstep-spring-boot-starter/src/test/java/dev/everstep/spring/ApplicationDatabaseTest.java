package dev.everstep.spring;

import static org.assertj.core.api.Assertions.assertThat;

import com.zaxxer.hikari.HikariDataSource;
import dev.everstep.EngineOptions;
import dev.everstep.Everstep;
import dev.everstep.TransactionSource;
import dev.everstep.tests.TestDatabase;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import javax.sql.DataSource;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Primary;
import org.springframework.jdbc.datasource.DriverManagerDataSource;
import org.springframework.jdbc.support.JdbcTransactionManager;
import org.springframework.transaction.PlatformTransactionManager;

/** The application's data source as the engine's database. */
@Timeout(60)
final class ApplicationDatabaseTest {
  private static final TestDatabase DATABASE = TestDatabase.postgres();

  private final ApplicationContextRunner runner =
      new ApplicationContextRunner()
          .withConfiguration(AutoConfigurations.of(EverstepAutoConfiguration.class))
          .withConfiguration(Boot.data());

  private static String engineUrl(String jdbc, String... properties) {
    return ApplicationDatabase.url(jdbc, "ada", "p@ss", of(properties));
  }

  private static Properties of(String... properties) {
    Properties out = new Properties();
    for (int index = 0; index < properties.length; index += 2) {
      out.setProperty(properties[index], properties[index + 1]);
    }
    return out;
  }

  @Test
  void theEngineIsAsEncryptedAsTheApplicationsDataSource() {
    assertThat(engineUrl("jdbc:postgresql://db/shop?currentSchema=a&sslmode=require"))
        .isEqualTo("postgresql://ada:p%40ss@db/shop?sslmode=require");
    assertThat(engineUrl("jdbc:postgresql://db/shop?ssl=true&sslrootcert=/ca.pem"))
        .isEqualTo("postgresql://ada:p%40ss@db/shop?sslmode=verify-full&sslrootcert=/ca.pem");
    assertThat(engineUrl("jdbc:postgresql://db/shop")).isEqualTo("postgresql://ada:p%40ss@db/shop");
    assertThat(
            ApplicationDatabase.url(
                "jdbc:postgresql://db/shop?user=bob&password=x", null, null, of()))
        .isEqualTo("postgresql://bob:x@db/shop");
  }

  @Test
  void thePropertiesOfThePoolCountTooAndTheUrlComesFirst() {
    assertThat(
            engineUrl("jdbc:postgresql://db/shop", "sslmode", "verify-ca", "sslrootcert", "/a b"))
        .isEqualTo("postgresql://ada:p%40ss@db/shop?sslmode=verify-ca&sslrootcert=%2Fa%20b");
    assertThat(engineUrl("jdbc:postgresql://db/shop", "ssl", "true"))
        .isEqualTo("postgresql://ada:p%40ss@db/shop?sslmode=verify-full");
    assertThat(engineUrl("jdbc:postgresql://db/shop?sslmode=require", "sslmode", "disable"))
        .isEqualTo("postgresql://ada:p%40ss@db/shop?sslmode=require");
  }

  @Test
  void tlsAskedForByPropertiesOfHikariReachesTheEngine() {
    // The test's server speaks no TLS: an engine that asks for it does not start.
    runner
        .withPropertyValues(
            "spring.datasource.url=" + DATABASE.jdbcUrl(),
            "spring.datasource.hikari.data-source-properties.sslmode=require",
            "everstep.schema=" + DATABASE.schema())
        .run(
            context ->
                assertThat(context)
                    .getFailure()
                    .hasStackTraceContaining("EverstepException")
                    .hasStackTraceContaining("TLS"));
  }

  private static HikariDataSource pool(String url) {
    HikariDataSource out = new HikariDataSource();
    out.setJdbcUrl(url);
    return out;
  }

  @Configuration(proxyBeanMethods = false)
  static class OfItsOwn {
    @Bean
    DataSource dataSource() {
      return pool(DATABASE.jdbcUrl());
    }
  }

  @Test
  void aDataSourceBeanOfTheApplicationsOwnIsTheDatabaseToo() {
    runner
        .withUserConfiguration(OfItsOwn.class)
        .withPropertyValues("everstep.schema=" + DATABASE.schema(), "everstep.auto-migrate=true")
        .run(
            context -> {
              assertThat(context.getBean(Everstep.class).info()).containsEntry("store", "postgres");
              assertThat(context).hasSingleBean(TransactionSource.class);
            });
  }

  @Configuration(proxyBeanMethods = false)
  static class OfAnotherKind {
    @Bean
    DataSource archive() {
      return new DriverManagerDataSource(DATABASE.jdbcUrl());
    }
  }

  /** A file beside it would be the engine's database, and nobody would know. */
  @Test
  void aDataSourceThatCannotBeTakenOverFailsTheStart(@TempDir Path directory) {
    for (Class<?> configuration : List.of(OfAnotherKind.class, TwoAlike.class)) {
      runner
          .withUserConfiguration(configuration)
          .run(
              context ->
                  assertThat(context)
                      .getFailure()
                      .hasStackTraceContaining("[no_database]")
                      .hasStackTraceContaining("archive")
                      .hasStackTraceContaining("everstep.database"));
    }
    runner
        .withUserConfiguration(OfAnotherKind.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("named.db"))
        .run(context -> assertThat(context).hasNotFailed());
    runner
        .withUserConfiguration(OfAnotherKind.class)
        .withBean(
            EverstepCustomizer.class,
            () ->
                new EverstepCustomizer() {
                  @Override
                  public void options(EngineOptions options) {
                    options.database("sqlite:" + directory.resolve("customized.db"));
                  }
                })
        .run(context -> assertThat(context).hasNotFailed());
  }

  @Test
  void noBeanPrintsThePassword(@TempDir Path directory) {
    runner
        .withPropertyValues(
            "spring.datasource.url=" + DATABASE.jdbcUrl(),
            "everstep.database=sqlite:" + directory.resolve("s3cret.db"),
            "everstep.settings.environment=s3cret")
        .run(
            context -> {
              assertThat(context).hasNotFailed();
              for (String name : context.getBeanNamesForType(Object.class)) {
                if (name.contains("verstep")) {
                  assertThat(String.valueOf(context.getBean(name))).doesNotContain("s3cret");
                }
              }
              assertThat(context.getBean(EverstepProperties.class).toString())
                  .contains("database=***");
            });
  }

  @Configuration(proxyBeanMethods = false)
  static class Two {
    @Bean
    @Primary
    DataSource orders() {
      return pool(DATABASE.jdbcUrl());
    }

    @Bean
    DataSource archive() {
      return pool("jdbc:postgresql://127.0.0.1:1/archive");
    }
  }

  @Test
  void ofTwoDataSourcesThePrimaryOneIsTheDatabase() {
    runner
        .withUserConfiguration(Two.class)
        .withPropertyValues("everstep.schema=" + DATABASE.schema(), "everstep.auto-migrate=true")
        .run(
            context -> {
              assertThat(context.getBean(Everstep.class).info()).containsEntry("store", "postgres");
              assertThat(context).hasSingleBean(TransactionSource.class);
            });
  }

  @Configuration(proxyBeanMethods = false)
  static class TwoAlike {
    @Bean
    DataSource orders() {
      return pool(DATABASE.jdbcUrl());
    }

    @Bean
    DataSource archive() {
      return pool("jdbc:postgresql://127.0.0.1:1/archive");
    }

    @Bean
    PlatformTransactionManager manager(ObjectProvider<DataSource> sources) {
      return new JdbcTransactionManager(sources.stream().findFirst().orElseThrow());
    }
  }

  @Test
  void ofTwoAlikeNeitherIsGuessed(@TempDir Path directory) {
    runner
        .withUserConfiguration(TwoAlike.class)
        .withPropertyValues("everstep.database=sqlite:" + directory.resolve("two.db"))
        .run(
            context -> {
              assertThat(context).hasNotFailed();
              assertThat(context).doesNotHaveBean(TransactionSource.class);
              assertThat(context.getBean(Everstep.class).info()).containsEntry("store", "sqlite");
            });
  }
}
