package dev.everstep;

import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.JsonDeserializer;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.JsonSerializer;
import com.fasterxml.jackson.databind.deser.BeanDeserializerBase;
import com.fasterxml.jackson.databind.deser.DefaultDeserializationContext;
import com.fasterxml.jackson.databind.deser.SettableBeanProperty;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.ser.BeanSerializer;
import com.fasterxml.jackson.databind.ser.PropertyWriter;
import com.fasterxml.jackson.databind.ser.impl.UnknownSerializer;
import java.lang.reflect.GenericArrayType;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.lang.reflect.TypeVariable;
import java.lang.reflect.WildcardType;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;

/**
 * Finds out at registration what could not be written or read at run time: the error names the type
 * and where it stands, and comes before the first run.
 */
final class Types {
  private static final String SUBTYPES = "name its subtypes with @JsonTypeInfo and @JsonSubTypes";

  private final JsonMapper mapper;
  private final String what;
  private final Set<JavaType> seen = new HashSet<>();

  private Types(JsonMapper mapper, String what) {
    this.mapper = mapper;
    this.what = what;
  }

  /** A class that says all about itself. */
  static Type of(Class<?> type) {
    Options.required(type, "the type");
    if (type.getTypeParameters().length > 0) {
      throw Options.invalid(
          type.getSimpleName()
              + " has type parameters that a class does not say: new TypeRef<"
              + type.getSimpleName()
              + "<..>>() {}");
    }
    return type;
  }

  static Type of(TypeRef<?> type) {
    return Options.required(type, "the type").type();
  }

  /**
   * Throws {@code payload_invalid} where a value of this type could not be stored and read back.
   */
  static void check(Payloads payloads, Type type, String what) {
    if (hasVariable(type)) {
      throw Options.invalid(
          what
              + ": the type "
              + type.getTypeName()
              + " is not known at run time: name it with a TypeRef");
    }
    Types types = new Types(payloads.mapper(), what);
    JavaType java = payloads.type(type);
    types.writable(java, type.getTypeName());
    types.seen.clear();
    types.readable(java, type.getTypeName());
  }

  private static boolean hasVariable(Type... types) {
    for (Type type : types) {
      boolean found =
          type instanceof TypeVariable<?>
              || (type instanceof ParameterizedType parameterized
                  && hasVariable(parameterized.getActualTypeArguments()))
              || (type instanceof GenericArrayType array
                  && hasVariable(array.getGenericComponentType()))
              || (type instanceof WildcardType wildcard
                  && (hasVariable(wildcard.getUpperBounds())
                      || hasVariable(wildcard.getLowerBounds())));
      if (found) {
        return true;
      }
    }
    return false;
  }

  private EverstepException refused(JavaType type, String path, String why) {
    return Payloads.invalid(
        what + ": the type " + type.getRawClass().getName() + " (" + path + ") " + why);
  }

  static boolean isPlatform(Class<?> type) {
    String name = type.getName();
    return name.startsWith("java.")
        || name.startsWith("javax.")
        || name.startsWith("jdk.")
        || name.startsWith("sun.");
  }

  private void writable(JavaType type, String path) {
    if (type.isJavaLangObject() || type.isPrimitive() || !seen.add(type)) {
      return;
    }
    Class<?> raw = type.getRawClass();
    if (raw == Class.class
        || Iterator.class.isAssignableFrom(raw)
        || java.util.stream.BaseStream.class.isAssignableFrom(raw)) {
      throw refused(type, path, "cannot be stored");
    }
    if (type.isContainerType() || type.isReferenceType()) {
      if (type.getKeyType() != null) {
        writable(type.getKeyType(), path + ".key");
      }
      if (type.getContentType() != null) {
        writable(type.getContentType(), path + "[]");
      }
      return;
    }
    JsonSerializer<Object> serializer;
    try {
      serializer = mapper.getSerializerProviderInstance().findValueSerializer(type);
    } catch (JsonMappingException error) {
      throw refused(type, path, "cannot be stored: " + error.getOriginalMessage());
    }
    if (serializer instanceof PayloadModule.NoValue) {
      throw refused(type, path, "cannot be stored: it is no value");
    }
    if (serializer instanceof UnknownSerializer) {
      if (raw.isRecord()) {
        return;
      }
      throw refused(
          type,
          path,
          Modifier.isAbstract(raw.getModifiers())
              ? "cannot be stored: it is abstract; " + SUBTYPES
              : "cannot be stored: it has no properties");
    }
    if (!(serializer instanceof BeanSerializer)) {
      return;
    }
    if (raw.isAnnotationPresent(FunctionalInterface.class)) {
      throw refused(type, path, "cannot be stored: it is no value");
    }
    for (Iterator<PropertyWriter> all = serializer.properties(); all.hasNext(); ) {
      PropertyWriter property = all.next();
      writable(property.getType(), path + "." + property.getName());
    }
  }

  private void readable(JavaType type, String path) {
    if (type.isJavaLangObject() || type.isPrimitive() || !seen.add(type)) {
      return;
    }
    if (type.isContainerType() || type.isReferenceType()) {
      if (type.getContentType() != null) {
        readable(type.getContentType(), path + "[]");
      }
      return;
    }
    JsonDeserializer<Object> deserializer;
    try {
      DeserializationContext context =
          ((DefaultDeserializationContext) mapper.getDeserializationContext())
              .createDummyInstance(mapper.getDeserializationConfig());
      deserializer = context.findRootValueDeserializer(type);
    } catch (JsonMappingException | IllegalArgumentException error) {
      String why =
          error instanceof JsonMappingException mapping
              ? mapping.getOriginalMessage()
              : error.getMessage();
      throw refused(type, path, "cannot be read back: " + why);
    }
    Class<?> raw = type.getRawClass();
    if (deserializer instanceof com.fasterxml.jackson.databind.deser.AbstractDeserializer) {
      throw refused(type, path, "cannot be read back: it is abstract; " + SUBTYPES);
    }
    if (!(deserializer instanceof BeanDeserializerBase bean)
        || Modifier.isAbstract(raw.getModifiers())) {
      return;
    }
    if (!bean.getValueInstantiator().canInstantiate()) {
      throw refused(
          type,
          path,
          "cannot be read back: it has neither a constructor without parameters nor one with"
              + " @JsonCreator; a record has what it takes");
    }
    for (Iterator<SettableBeanProperty> all = bean.properties(); all.hasNext(); ) {
      SettableBeanProperty property = all.next();
      readable(property.getType(), path + "." + property.getName());
    }
    for (Iterator<SettableBeanProperty> all = bean.creatorProperties(); all.hasNext(); ) {
      SettableBeanProperty property = all.next();
      readable(property.getType(), path + "." + property.getName());
    }
  }
}
