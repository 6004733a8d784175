package dev.everstep.spring;

import java.util.Arrays;
import java.util.Map;
import org.springframework.beans.factory.BeanFactory;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.util.ClassUtils;
import org.springframework.util.ReflectionUtils;

/** What Boot 4 has moved, by both names: the same tests run on Boot 3 and on Boot 4. */
final class Boot {
  private Boot() {}

  private static Class<?> type(String... names) {
    ClassLoader loader = Boot.class.getClassLoader();
    return Arrays.stream(names)
        .map(name -> "org.springframework.boot." + name + "AutoConfiguration")
        .filter(name -> ClassUtils.isPresent(name, loader))
        .map(name -> ClassUtils.resolveClassName(name, loader))
        .findFirst()
        .orElseThrow();
  }

  /** A data source, its transaction manager, and what is made of them. */
  static AutoConfigurations data() {
    return AutoConfigurations.of(
        type("autoconfigure.aop.Aop"),
        type("autoconfigure.jdbc.DataSource", "jdbc.autoconfigure.DataSource"),
        type(
            "autoconfigure.jdbc.DataSourceTransactionManager",
            "jdbc.autoconfigure.DataSourceTransactionManager"),
        type("autoconfigure.transaction.Transaction", "transaction.autoconfigure.Transaction"),
        type("autoconfigure.jdbc.JdbcTemplate", "jdbc.autoconfigure.JdbcTemplate"));
  }

  /** UP, DOWN, OUT_OF_SERVICE. */
  static String status(BeanFactory beans) {
    return asked(asked(health(beans), "getStatus"), "getCode").toString();
  }

  static Map<?, ?> details(BeanFactory beans) {
    return (Map<?, ?>) asked(health(beans), "getDetails");
  }

  private static Object health(BeanFactory beans) {
    return asked(beans.getBean("everstepHealthIndicator"), "health");
  }

  private static Object asked(Object of, String method) {
    var found = ReflectionUtils.findMethod(of.getClass(), method);
    ReflectionUtils.makeAccessible(found);
    return ReflectionUtils.invokeMethod(found, of);
  }
}
