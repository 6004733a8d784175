package dev.everstep;

import java.lang.StackWalker.StackFrame;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * {@code file:line} of the user's call. A line is looked up once a place: that is the slow half.
 */
final class Location {
  private static final StackWalker WALKER = StackWalker.getInstance();
  private static final String PACKAGE = "dev.everstep.";
  private static final ConcurrentHashMap<Place, String> KNOWN = new ConcurrentHashMap<>();

  private record Place(String type, String method, int at) {}

  private Location() {}

  static String here() {
    return WALKER.walk(Location::first);
  }

  private static String first(Stream<StackFrame> frames) {
    return frames
        .filter(frame -> !isOurs(frame.getClassName()))
        .findFirst()
        .map(Location::text)
        .orElse("");
  }

  private static String text(StackFrame frame) {
    Place place = new Place(frame.getClassName(), frame.getMethodName(), frame.getByteCodeIndex());
    String known = KNOWN.get(place);
    if (known == null) {
      known = frame.getFileName() + ":" + frame.getLineNumber();
      KNOWN.put(place, known);
    }
    return known;
  }

  /** Of this package and no package below it. */
  static boolean isOurs(String type) {
    return type.startsWith(PACKAGE) && type.indexOf('.', PACKAGE.length()) < 0;
  }

  /** Where in the user's code {@code error} was thrown, or null. */
  static @Nullable String of(Throwable error) {
    for (StackTraceElement frame : error.getStackTrace()) {
      if (!isOurs(frame.getClassName()) && !frame.getClassName().startsWith("java.")) {
        return frame.getFileName() + ":" + frame.getLineNumber();
      }
    }
    return null;
  }
}
