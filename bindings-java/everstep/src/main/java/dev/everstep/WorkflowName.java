package dev.everstep;

import java.lang.annotation.Documented;
import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/**
 * The name of a workflow class: what a run's row refers to, so it stays when the class is renamed.
 */
@Documented
@Retention(RetentionPolicy.RUNTIME)
@Target(ElementType.TYPE)
public @interface WorkflowName {
  /**
   * The name.
   *
   * @return 1 to 255 bytes of UTF-8
   */
  String value();
}
