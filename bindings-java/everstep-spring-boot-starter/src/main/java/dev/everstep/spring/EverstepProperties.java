package dev.everstep.spring;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * What {@code application.yaml} says under {@code everstep}. What it leaves out is the engine's
 * default.
 *
 * @param enabled false: no engine in this application
 * @param database postgresql://user:password@host/name or sqlite:FILE; left out: the application's
 *     own PostgreSQL data source, else EVERSTEP_DATABASE_URL
 * @param schema the PostgreSQL schema of the engine's tables
 * @param namespace isolates applications in one database
 * @param environment a database stamped with another one is held
 * @param version the application's build
 * @param role worker, starter or client
 * @param queues the queues this worker serves
 * @param slots how many runs execute at once
 * @param autoMigrate whether launch brings the schema up to date
 * @param grace how long a shutdown lets runs finish or park
 * @param keepAlive whether a worker with workflows or steps keeps an application without a web
 *     server running until the context or the engine is closed
 * @param settings further keys of the engine's configuration table, as {@code lease-ms: 5000}
 */
@ConfigurationProperties("everstep")
public record EverstepProperties(
    @DefaultValue("true") boolean enabled,
    @Nullable String database,
    @Nullable String schema,
    @Nullable String namespace,
    @Nullable String environment,
    @Nullable String version,
    @Nullable String role,
    @Nullable List<String> queues,
    @Nullable Integer slots,
    @Nullable Boolean autoMigrate,
    @DefaultValue("25s") Duration grace,
    @DefaultValue("true") boolean keepAlive,
    @DefaultValue Map<String, Object> settings) {

  /** Without what they say of the database: a URL holds a password. */
  @Override
  public String toString() {
    return "EverstepProperties[enabled="
        + enabled
        + ", database="
        + (database == null ? null : "***")
        + ", schema="
        + schema
        + ", namespace="
        + namespace
        + ", environment="
        + environment
        + ", version="
        + version
        + ", role="
        + role
        + ", queues="
        + queues
        + ", slots="
        + slots
        + ", autoMigrate="
        + autoMigrate
        + ", grace="
        + grace
        + ", keepAlive="
        + keepAlive
        + ", settings="
        + settings.keySet()
        + "]";
  }
}
