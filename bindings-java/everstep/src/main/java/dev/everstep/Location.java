package dev.everstep;

import java.lang.StackWalker.StackFrame;
import java.util.Set;
import java.util.Spliterator;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * {@code file:line} of the user's call. A line is looked up once a place: that is the slow half.
 */
final class Location {
  /** Frames fetched at first: ours between the user's call and here, and the user's. */
  private static final int DEPTH = 6;

  private static final StackWalker WALKER = StackWalker.getInstance(Set.of(), DEPTH);
  private static final String PACKAGE = "dev.everstep.";
  private static final ConcurrentHashMap<Place, String> KNOWN = new ConcurrentHashMap<>();

  private record Place(String type, String method, int at) {}

  private Location() {}

  static String here() {
    return WALKER.walk(Location::first);
  }

  /** A loop and no pipeline: this runs once a step. */
  private static String first(Stream<StackFrame> frames) {
    Spliterator<StackFrame> left = frames.spliterator();
    Outside outside = new Outside();
    while (outside.frame == null && left.tryAdvance(outside)) {}
    return outside.frame == null ? "" : text(outside.frame);
  }

  /** Keeps the first frame that is not ours. */
  private static final class Outside implements Consumer<StackFrame> {
    @Nullable StackFrame frame;

    @Override
    public void accept(StackFrame next) {
      if (!isOurs(next.getClassName())) {
        frame = next;
      }
    }
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
    for (StackTraceElement frame : Failure.stackIn(error)) {
      if (!isOurs(frame.getClassName()) && !frame.getClassName().startsWith("java.")) {
        return frame.getFileName() + ":" + frame.getLineNumber();
      }
    }
    return null;
  }
}
