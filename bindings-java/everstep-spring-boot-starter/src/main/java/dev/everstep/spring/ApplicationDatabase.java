package dev.everstep.spring;

import com.zaxxer.hikari.HikariDataSource;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import javax.sql.DataSource;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.boot.autoconfigure.jdbc.JdbcConnectionDetails;
import org.springframework.boot.jdbc.DataSourceUnwrapper;
import org.springframework.util.ClassUtils;

/**
 * The database of the application's own data source as the engine names it: as it is encrypted
 * there, whether the JDBC URL says so or the properties of the pool.
 */
final class ApplicationDatabase {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");
  private static final String JDBC = "jdbc:postgresql://";
  private static final boolean HIKARI =
      ClassUtils.isPresent(
          "com.zaxxer.hikari.HikariDataSource", ApplicationDatabase.class.getClassLoader());

  private ApplicationDatabase() {}

  /** What Boot was configured with, else what the one data source of the application says. */
  static @Nullable String url(
      @Nullable JdbcConnectionDetails details, @Nullable DataSource dataSource) {
    HikariSettings pool = HIKARI ? HikariSettings.of(dataSource) : null;
    if (details != null) {
      Properties further = pool == null ? new Properties() : pool.further();
      return url(details.getJdbcUrl(), details.getUsername(), details.getPassword(), further);
    }
    if (pool != null) {
      return url(pool.jdbc(), pool.username(), pool.password(), pool.further());
    }
    if (dataSource != null) {
      LOG.info(
          "the address of the data source {} is not known to Everstep: everstep.database names"
              + " the engine's database",
          dataSource.getClass().getName());
    }
    return null;
  }

  /** Apart, for a class path without Hikari. */
  private record HikariSettings(
      @Nullable String jdbc,
      @Nullable String username,
      @Nullable String password,
      Properties further) {
    static @Nullable HikariSettings of(@Nullable DataSource given) {
      HikariDataSource pool =
          given == null ? null : DataSourceUnwrapper.unwrap(given, HikariDataSource.class);
      return pool == null
          ? null
          : new HikariSettings(
              pool.getJdbcUrl(),
              pool.getUsername(),
              pool.getPassword(),
              pool.getDataSourceProperties());
    }
  }

  static @Nullable String url(
      @Nullable String jdbc,
      @Nullable String username,
      @Nullable String password,
      Properties further) {
    if (jdbc == null || !jdbc.startsWith(JDBC)) {
      return null;
    }
    String rest = jdbc.substring(JDBC.length());
    int question = rest.indexOf('?');
    String path = question < 0 ? rest : rest.substring(0, question);
    Map<String, String> parameters = new HashMap<>();
    for (String name : further.stringPropertyNames()) {
      parameters.put(name, encoded(further.getProperty(name)));
    }
    if (question >= 0) {
      // The driver prefers them, too.
      parameters.putAll(parameters(rest.substring(question + 1)));
    }
    String user = username == null ? parameters.get("user") : encoded(username);
    String secret = password == null ? parameters.get("password") : encoded(password);
    String who = user == null ? "" : user + (secret == null ? "" : ":" + secret) + "@";
    return "postgresql://" + who + path + encryption(parameters);
  }

  /** As they stand in the URL: percent-encoded. */
  private static Map<String, String> parameters(String query) {
    Map<String, String> out = new HashMap<>();
    for (String part : query.split("&", -1)) {
      int equals = part.indexOf('=');
      String name = equals < 0 ? part : part.substring(0, equals);
      out.put(name, equals < 0 ? "" : part.substring(equals + 1));
    }
    return out;
  }

  /** An application that asks for TLS must not find its engine talking in the clear. */
  private static String encryption(Map<String, String> parameters) {
    String mode = parameters.get("sslmode");
    String flag = parameters.get("ssl");
    if (mode == null && flag != null && !flag.equals("false")) {
      // What the driver makes of ssl=true.
      mode = "verify-full";
    }
    if (mode == null) {
      return "";
    }
    String root = parameters.get("sslrootcert");
    return "?sslmode=" + mode + (root == null ? "" : "&sslrootcert=" + root);
  }

  private static String encoded(String text) {
    return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
  }
}
