package dev.everstep;

import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;

/**
 * A type with its type arguments: {@code new TypeRef<List<Label>>() {}}.
 *
 * @param <T> the type
 */
public abstract class TypeRef<T> {
  private final Type type;

  /** Reads the type argument of the anonymous subclass. */
  protected TypeRef() {
    if (!(getClass().getGenericSuperclass() instanceof ParameterizedType declared)) {
      throw new EverstepException(
          ErrorCode.CONFIG_INVALID,
          "a TypeRef names its type argument: new TypeRef<List<String>>() {}");
    }
    type = declared.getActualTypeArguments()[0];
  }

  private TypeRef(Type type) {
    this.type = type;
  }

  /**
   * A class beside a type with arguments, where both have to be given the same way.
   *
   * @param type a class without type parameters
   * @param <T> the type
   * @return the reference
   */
  public static <T> TypeRef<T> of(Class<T> type) {
    return new TypeRef<>(Types.of(type)) {};
  }

  /**
   * The type.
   *
   * @return the type argument
   */
  public final Type type() {
    return type;
  }
}
