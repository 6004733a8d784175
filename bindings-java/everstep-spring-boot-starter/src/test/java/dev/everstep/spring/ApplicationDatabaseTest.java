package dev.everstep.spring;

import static org.assertj.core.api.Assertions.assertThat;

import com.zaxxer.hikari.HikariDataSource;
import dev.everstep.Everstep;
import dev.everstep.TransactionSource;
import dev.everstep.tests.TestDatabase;
import java.nio.file.Path;
import java.util.Properties;
import javax.sql.DataSource;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.autoconfigure.jdbc.DataSourceAutoConfiguration;
import org.springframework.boot.autoconfigure.jdbc.DataSourceTransactionManagerAutoConfiguration;
import org.springframework.boot.autoconfigure.transaction.TransactionAutoConfiguration;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Primary;
import org.springframework.jdbc.support.JdbcTransactionManager;
import org.springframework.transaction.PlatformTransactionManager;

/** The application's data source as the engine's database. */
@Timeout(60)
final class ApplicationDatabaseTest {
  private static final TestDatabase DATABASE = TestDatabase.postgres();

  private final ApplicationContextRunner runner =
      new ApplicationContextRunner()
          .withConfiguration(
              AutoConfigurations.of(
                  EverstepAutoConfiguration.class,
                  DataSourceAutoConfiguration.class,
                  DataSourceTransactionManagerAutoConfiguration.class,
                  TransactionAutoConfiguration.class));

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
