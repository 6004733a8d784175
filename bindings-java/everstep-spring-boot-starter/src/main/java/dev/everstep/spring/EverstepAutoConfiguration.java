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
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.AllNestedConditions;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Conditional;
import org.springframework.context.annotation.Configuration;
import org.springframework.jdbc.datasource.DataSourceUtils;
import org.springframework.transaction.PlatformTransactionManager;
import org.springframework.util.StringUtils;

/** One engine in the application: its workflow beans registered, launched and drained with it. */
@AutoConfiguration(
    // Of Boot 3, then of Boot 4.
    afterName = {
      "org.springframework.boot.autoconfigure.jdbc.DataSourceAutoConfiguration",
      "org.springframework.boot.autoconfigure.jdbc.DataSourceTransactionManagerAutoConfiguration",
      "org.springframework.boot.autoconfigure.orm.jpa.HibernateJpaAutoConfiguration",
      "org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
      "org.springframework.boot.jdbc.autoconfigure.DataSourceTransactionManagerAutoConfiguration",
      "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration"
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
   * @param beans the application's, with its data source
   * @return the engine, launched with the context
   */
  @Bean(destroyMethod = "close")
  @ConditionalOnMissingBean
  public Everstep everstep(
      EverstepProperties properties,
      ObjectProvider<EverstepCustomizer> customizers,
      ListableBeanFactory beans) {
    return Everstep.open(
        options -> {
          // Spring's own shutdown hook drains it.
          options.closeAtExit(false);
          if (properties.database() == null) {
            set(options, "database", ApplicationDatabase.url(beans));
          }
          apply(properties, options);
          customizers.orderedStream().forEach(customizer -> customizer.options(options));
          if (options.setting("database") == null
              && !StringUtils.hasText(System.getenv("EVERSTEP_DATABASE_URL"))) {
            ApplicationDatabase.requireNone(beans);
          }
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
    properties.settings().forEach((key, value) -> options.setting(named(key), typed(value)));
  }

  /** {@code lease-ms} and {@code lease_ms} are one key: a properties file knows no underscores. */
  private static String named(String key) {
    return key.replace('-', '_');
  }

  /** A properties file has texts only, and the engine takes no text for a number. */
  private static Object typed(Object value) {
    if (!(value instanceof String text)) {
      return value;
    }
    if (text.equals("true") || text.equals("false")) {
      return Boolean.valueOf(text);
    }
    return text.matches("-?\\d{1,18}") ? Long.valueOf(text) : text;
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
    return new EverstepLifecycle(
        app, workflows, ordered, beans, properties.grace(), properties.keepAlive());
  }

  /** Where the application has a data source. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass({DataSourceUtils.class, PlatformTransactionManager.class})
  static class WithDataSource {
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

  /** Where the application has the actuator of Boot 3. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass(org.springframework.boot.actuate.health.HealthIndicator.class)
  static class WithActuator {
    @Bean
    @ConditionalOnMissingBean(name = "everstepHealthIndicator")
    EverstepHealthIndicator everstepHealthIndicator(Everstep app) {
      return new EverstepHealthIndicator(app);
    }
  }

  /** Where it has the health of Boot 4. */
  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass(org.springframework.boot.health.contributor.HealthIndicator.class)
  static class WithHealth {
    @Bean
    @ConditionalOnMissingBean(name = "everstepHealthIndicator")
    EverstepHealthContributor everstepHealthIndicator(Everstep app) {
      return new EverstepHealthContributor(app);
    }
  }
}
