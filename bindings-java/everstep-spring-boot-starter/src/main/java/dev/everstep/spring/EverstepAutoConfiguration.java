package dev.everstep.spring;

import dev.everstep.EngineOptions;
import dev.everstep.Everstep;
import dev.everstep.TransactionSource;
import java.sql.Connection;
import java.util.List;
import javax.sql.DataSource;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.ListableBeanFactory;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.AllNestedConditions;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.boot.autoconfigure.jdbc.JdbcConnectionDetails;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Conditional;
import org.springframework.context.annotation.Configuration;
import org.springframework.transaction.PlatformTransactionManager;

/** One engine in the application: its workflow beans registered, launched and drained with it. */
@AutoConfiguration(
    afterName = {
      "org.springframework.boot.autoconfigure.jdbc.DataSourceAutoConfiguration",
      "org.springframework.boot.autoconfigure.jdbc.DataSourceTransactionManagerAutoConfiguration",
      "org.springframework.boot.autoconfigure.orm.jpa.HibernateJpaAutoConfiguration"
    })
@ConditionalOnProperty(name = "everstep.enabled", matchIfMissing = true)
@EnableConfigurationProperties(EverstepProperties.class)
public class EverstepAutoConfiguration {
  /** Made by Spring. */
  public EverstepAutoConfiguration() {}

  /**
   * The engine. Its lifecycle closes it: it must drain while other beans live. Its destruction does
   * where there was no stop before, as after a start of the application that failed.
   *
   * @param properties {@code everstep.*}
   * @param customizers beans that change its options
   * @param fallback the database of the application
   * @return the engine, launched with the context
   */
  @Bean(destroyMethod = "close")
  @ConditionalOnMissingBean
  public Everstep everstep(
      EverstepProperties properties,
      ObjectProvider<EverstepCustomizer> customizers,
      ObjectProvider<FallbackDatabase> fallback) {
    return Everstep.open(
        options -> {
          // Spring's own shutdown hook drains it.
          options.closeAtExit(false);
          FallbackDatabase database = fallback.getIfAvailable();
          if (properties.database() == null && database != null && database.url() != null) {
            options.database(database.url());
          }
          apply(properties, options);
          customizers.orderedStream().forEach(customizer -> customizer.options(options));
        });
  }

  private static void apply(EverstepProperties properties, EngineOptions options) {
    set(options, "database", properties.database());
    set(options, "schema", properties.schema());
    set(options, "namespace", properties.namespace());
    set(options, "environment", properties.environment());
    set(options, "version", properties.version());
    set(options, "role", properties.role());
    set(options, "queues", properties.queues());
    set(options, "slots", properties.slots());
    set(options, "auto_migrate", properties.autoMigrate());
  }

  private static void set(EngineOptions options, String key, @Nullable Object value) {
    if (value != null) {
      options.setting(key, value);
    }
  }

  /**
   * References to the workflow beans.
   *
   * @return filled at launch
   */
  @Bean
  @ConditionalOnMissingBean
  public Workflows everstepWorkflows() {
    return new Workflows();
  }

  @Bean
  @ConditionalOnMissingBean
  EverstepLifecycle everstepLifecycle(
      Everstep app,
      Workflows workflows,
      ObjectProvider<EverstepCustomizer> customizers,
      ListableBeanFactory beans,
      EverstepProperties properties) {
    List<EverstepCustomizer> ordered = customizers.orderedStream().toList();
    return new EverstepLifecycle(app, workflows, ordered, beans, properties.grace());
  }

  /**
   * The application's own database as the engine names it.
   *
   * @param url the URL, or null when it is no PostgreSQL
   */
  record FallbackDatabase(@Nullable String url) {}

  /** Where the application has a data source. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass({
    DataSource.class,
    JdbcConnectionDetails.class,
    PlatformTransactionManager.class
  })
  static class WithDataSource {
    @Bean
    FallbackDatabase everstepFallbackDatabase(
        ObjectProvider<JdbcConnectionDetails> details, ObjectProvider<DataSource> dataSources) {
      return new FallbackDatabase(
          ApplicationDatabase.url(details.getIfAvailable(), dataSources.getIfUnique()));
    }

    @Bean
    @ConditionalOnMissingBean
    @Conditional(OneOfEach.class)
    TransactionSource<Connection> everstepTransactions(
        PlatformTransactionManager manager, DataSource dataSource) {
      return SpringTransactions.of(manager, dataSource);
    }
  }

  /** With several of either, which belongs to which is for the application to say. */
  static final class OneOfEach extends AllNestedConditions {
    OneOfEach() {
      super(ConfigurationPhase.REGISTER_BEAN);
    }

    @ConditionalOnSingleCandidate(PlatformTransactionManager.class)
    static final class Manager {}

    @ConditionalOnSingleCandidate(DataSource.class)
    static final class Source {}
  }

  /** Where the application has the actuator. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass(HealthIndicator.class)
  static class WithActuator {
    @Bean
    @ConditionalOnMissingBean(name = "everstepHealthIndicator")
    HealthIndicator everstepHealthIndicator(Everstep app) {
      return new EverstepHealthIndicator(app);
    }
  }
}
