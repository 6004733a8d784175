package dev.everstep;

import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.lang.reflect.TypeVariable;
import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a workflow class says about itself.
 *
 * @param name its name
 * @param input type of its input
 * @param output type of its output
 */
record WorkflowClass(String name, Type input, Type output) {
  static WorkflowClass of(Workflow<?, ?> workflow) {
    Class<?> type = Options.required(workflow, "the workflow").getClass();
    // A proxy of a container's stands before the class that carries the annotation.
    WorkflowName named = null;
    Class<?> at = type;
    while (at != null && named == null) {
      named = at.getAnnotation(WorkflowName.class);
      if (named == null) {
        at = at.getSuperclass();
      }
    }
    if (type.isSynthetic() || type.isHidden()) {
      throw Options.invalid(
          "a lambda says neither its name nor its types: app.workflow(name, Input.class,"
              + " Output.class, lambda)");
    }
    Type[] arguments = arguments(type, Map.of());
    if (arguments == null
        || arguments[0] instanceof TypeVariable<?>
        || arguments[1] instanceof TypeVariable<?>) {
      throw Options.invalid(
          type.getName()
              + " does not say its types: implement Workflow<Input, Output> with both named");
    }
    String name = named != null ? named.value() : written(type).getSimpleName();
    if (name.isEmpty()) {
      throw Options.invalid("an anonymous workflow class needs @WorkflowName, or app.workflow(..)");
    }
    return new WorkflowClass(name, arguments[0], arguments[1]);
  }

  /** Without a container's proxies: their names are counted, and differ from start to start. */
  private static Class<?> written(Class<?> type) {
    Class<?> above = type.getSuperclass();
    return type.getName().contains("$$") && above != null && above != Object.class
        ? written(above)
        : type;
  }

  /** The type arguments of Workflow as seen from {@code type}. */
  private static Type @Nullable [] arguments(Type type, Map<TypeVariable<?>, Type> bound) {
    Class<?> raw =
        type instanceof ParameterizedType parameterized
            ? (Class<?>) parameterized.getRawType()
            : (Class<?>) type;
    Map<TypeVariable<?>, Type> known = new HashMap<>(bound);
    if (type instanceof ParameterizedType parameterized) {
      for (int index = 0; index < raw.getTypeParameters().length; index++) {
        Type argument = parameterized.getActualTypeArguments()[index];
        known.put(
            raw.getTypeParameters()[index],
            argument instanceof TypeVariable<?> variable
                ? bound.getOrDefault(variable, argument)
                : argument);
      }
    }
    if (raw == Workflow.class) {
      return new Type[] {
        known.getOrDefault(raw.getTypeParameters()[0], raw.getTypeParameters()[0]),
        known.getOrDefault(raw.getTypeParameters()[1], raw.getTypeParameters()[1])
      };
    }
    for (Type above : raw.getGenericInterfaces()) {
      Type[] found = arguments(above, known);
      if (found != null) {
        return found;
      }
    }
    return raw.getGenericSuperclass() == null ? null : arguments(raw.getGenericSuperclass(), known);
  }
}
