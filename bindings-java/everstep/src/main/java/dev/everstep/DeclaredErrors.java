package dev.everstep;

import com.fasterxml.jackson.annotation.JsonCreator;
import com.fasterxml.jackson.annotation.JsonProperty;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Modifier;
import java.lang.reflect.Parameter;
import java.lang.reflect.Type;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.jspecify.annotations.Nullable;

/**
 * The error types of one application, by name and by class: recorded by their fields and rebuilt
 * through their constructor. No class is ever named by a row.
 */
final class DeclaredErrors {
  private final Map<String, Declared> byCode = new ConcurrentHashMap<>();
  private final Map<Class<?>, Declared> byType = new ConcurrentHashMap<>();
  private final Payloads payloads;

  DeclaredErrors(Payloads payloads) {
    this.payloads = payloads;
  }

  void add(String code, Class<? extends Throwable> type, String where) {
    Declared known = byCode.get(code);
    if (ErrorCode.of(code) != null || (known != null && known.type != type)) {
      throw new EverstepException(
          ErrorCode.ALREADY_REGISTERED,
          "the error code "
              + code
              + " is taken by "
              + (known == null
                  ? "the engine"
                  : known.type.getName() + ", declared at " + known.where)
              + "; "
              + type.getName()
              + " is declared at "
              + where
              + ": give it another");
    }
    Declared declared = new Declared(code, type, where);
    byCode.put(code, declared);
    byType.put(type, declared);
  }

  /**
   * The nearest declared class: a subclass that is not declared itself comes back as its declared
   * base.
   */
  @Nullable Declared of(Throwable error) {
    for (Class<?> type = error.getClass(); type != null; type = type.getSuperclass()) {
      Declared found = byType.get(type);
      if (found != null) {
        return found;
      }
    }
    return null;
  }

  @Nullable Declared named(@Nullable String code) {
    return code == null ? null : byCode.get(code);
  }

  /** One declared type. */
  final class Declared {
    final String code;
    final Class<? extends Throwable> type;
    final String where;
    private final Constructor<?> constructor;

    /** Each parameter's name and, but for message and cause, the field it is kept in. */
    private final Map<String, @Nullable Field> fields = new LinkedHashMap<>();

    Declared(String code, Class<? extends Throwable> type, String where) {
      this.where = where;
      this.code = code;
      this.type = type;
      this.constructor = constructorOf(type);
      List<Field> own = new ArrayList<>();
      for (Field field : type.getDeclaredFields()) {
        if (!Modifier.isStatic(field.getModifiers()) && !field.isSynthetic()) {
          own.add(field);
        }
      }
      Parameter[] parameters = constructor.getParameters();
      for (int index = 0; index < parameters.length; index++) {
        add(parameters[index], index, parameters.length, own);
      }
      try {
        constructor.setAccessible(true);
        for (Field field : fields.values()) {
          if (field != null) {
            field.setAccessible(true);
          }
        }
      } catch (RuntimeException error) {
        throw refused("its constructor or fields are not open to Everstep: " + error.getMessage());
      }
    }

    private void add(Parameter parameter, int index, int count, List<Field> own) {
      JsonProperty named = parameter.getAnnotation(JsonProperty.class);
      String name =
          named != null ? named.value() : parameter.isNamePresent() ? parameter.getName() : "";
      Field field = null;
      for (Field candidate : own) {
        if (candidate.getName().equals(name)) {
          field = candidate;
        }
      }
      boolean positional = name.isEmpty() && own.size() == count;
      if (field == null && positional && own.get(index).getType() == parameter.getType()) {
        // Compiled without -parameters: fields in the order of the parameters they are set from.
        field = own.get(index);
        name = field.getName();
      }
      if (field == null && name.isEmpty() && count == 1 && parameter.getType() == String.class) {
        name = "message";
      }
      if (field == null && !name.equals("message") && !name.equals("cause")) {
        throw refused(
            "its constructor takes "
                + (name.isEmpty() ? "a parameter " + (index + 1) : name)
                + " but it has no field of that name to record it from (compile with -parameters,"
                + " or annotate the parameter with @JsonProperty)");
      }
      fields.put(name, field);
    }

    private EverstepException refused(String why) {
      return Options.invalid("the error type " + type.getName() + " cannot be rebuilt: " + why);
    }

    private static Constructor<?> constructorOf(Class<?> type) {
      if (Modifier.isAbstract(type.getModifiers())) {
        throw Options.invalid("the error type " + type.getName() + " is abstract");
      }
      Constructor<?> best = null;
      for (Constructor<?> candidate : type.getDeclaredConstructors()) {
        if (candidate.isAnnotationPresent(JsonCreator.class)) {
          return candidate;
        }
        if (!candidate.isSynthetic()
            && (best == null || candidate.getParameterCount() > best.getParameterCount())) {
          best = candidate;
        }
      }
      if (best == null) {
        throw Options.invalid("the error type " + type.getName() + " has no constructor");
      }
      return best;
    }

    @Nullable Object details(Throwable error) {
      Map<String, @Nullable Object> out = new LinkedHashMap<>();
      for (Map.Entry<String, @Nullable Field> entry : fields.entrySet()) {
        Field field = entry.getValue();
        if (field != null) {
          try {
            out.put(entry.getKey(), field.get(error));
          } catch (IllegalAccessException denied) {
            throw Payloads.invalid("field " + entry.getKey() + ": " + denied.getMessage());
          }
        }
      }
      return out.isEmpty() ? null : out;
    }

    Throwable rebuild(String message, @Nullable Object details) {
      Map<?, ?> given = details instanceof Map<?, ?> map ? map : Map.of();
      List<@Nullable Object> arguments = new ArrayList<>();
      Type[] types = constructor.getGenericParameterTypes();
      for (Map.Entry<String, @Nullable Field> entry : fields.entrySet()) {
        Object value =
            entry.getValue() != null
                ? given.get(entry.getKey())
                : entry.getKey().equals("message") ? message : null;
        Type type = types[arguments.size()];
        arguments.add(value == null ? null : payloads.decode(payloads.encode(value), type));
      }
      try {
        return (Throwable) constructor.newInstance(arguments.toArray());
      } catch (InvocationTargetException error) {
        throw Payloads.invalid("its constructor threw " + error.getCause());
      } catch (ReflectiveOperationException | IllegalArgumentException error) {
        throw Payloads.invalid(String.valueOf(error.getMessage()));
      }
    }
  }
}
