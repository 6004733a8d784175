package dev.everstep.spring;

import com.zaxxer.hikari.HikariDataSource;
import dev.everstep.ErrorCode;
import dev.everstep.EverstepException;
import java.lang.reflect.Method;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import javax.sql.DataSource;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.ListableBeanFactory;
import org.springframework.boot.jdbc.DataSourceUnwrapper;
import org.springframework.util.ClassUtils;
import org.springframework.util.ReflectionUtils;

/**
 * The database of the application's own data source as the engine names it: as it is encrypted
 * there, whether the JDBC URL says so or the properties of the pool.
 */
final class ApplicationDatabase {
  private static final String JDBC = "jdbc:postgresql://";
  private static final boolean HIKARI =
      isPresent("com.zaxxer.hikari.HikariDataSource")
          && isPresent("org.springframework.boot.jdbc.DataSourceUnwrapper");

  /** Boot 4 has moved it: found by name, so that one starter serves both. */
  private static final List<String> DETAILS =
      List.of(
          "org.springframework.boot.jdbc.autoconfigure.JdbcConnectionDetails",
          "org.springframework.boot.autoconfigure.jdbc.JdbcConnectionDetails");

  private ApplicationDatabase() {}

  private static boolean isPresent(String type) {
    return ClassUtils.isPresent(type, ApplicationDatabase.class.getClassLoader());
  }

  /**
   * What Boot was configured with, else what the one data source of the application says; null
   * where that is no PostgreSQL, or says nothing.
   */
  static @Nullable String url(ListableBeanFactory beans) {
    DataSource dataSource = beans.getBeanProvider(DataSource.class).getIfUnique();
    HikariSettings pool = HIKARI ? HikariSettings.of(dataSource) : null;
    for (String name : DETAILS) {
      Object details = isPresent(name) ? beanOf(name, beans) : null;
      if (details != null) {
        return url(
            said(details, name, "getJdbcUrl"),
            said(details, name, "getUsername"),
            said(details, name, "getPassword"),
            pool == null ? new Properties() : pool.further());
      }
    }
    return pool == null ? null : url(pool.jdbc(), pool.username(), pool.password(), pool.further());
  }

  private static @Nullable Object beanOf(String type, ListableBeanFactory beans) {
    return beans.getBeanProvider(typeOf(type)).getIfUnique();
  }

  private static Class<?> typeOf(String name) {
    return ClassUtils.resolveClassName(name, ApplicationDatabase.class.getClassLoader());
  }

  private static @Nullable String said(Object details, String type, String getter) {
    Method method = ReflectionUtils.findMethod(typeOf(type), getter);
    return method == null ? null : (String) ReflectionUtils.invokeMethod(method, details);
  }

  /**
   * A file of the engine's own beside the application's database is nothing anybody asked for: in a
   * container it is gone with the next deploy.
   */
  static void requireNone(ListableBeanFactory beans) {
    String[] names = beans.getBeanNamesForType(DataSource.class, true, false);
    if (names.length > 0) {
      throw new EverstepException(
          ErrorCode.NO_DATABASE,
          "this application has a data source ("
              + String.join(", ", names)
              + ") that Everstep cannot take over, for it is not one PostgreSQL whose address it"
              + " can read: name the engine's database with everstep.database"
              + " (postgresql://user:password@host/name or sqlite:FILE)");
    }
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
