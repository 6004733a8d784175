package dev.everstep;

/**
 * The functions of {@code core/docs/protocol.md}. An answer that may be an error begins with a
 * byte: 0, then the frame of the operation, or 1, then the frame {@code [code, message]}.
 *
 * <p>There once {@link NativeLoader#load} has returned. Not from an initialiser of this class: one
 * that fails says why only to the first who asks.
 */
final class Native {
  static native byte[] open(byte[] config, int length);

  static native byte[] attach(long handle, boolean ordered);

  static native byte[] call(long handle, int op, byte[] frame, int length);

  static native boolean submit(
      long handle, int client, long token, int op, byte[] frame, int length);

  static native byte[] drain(long handle, int client, int max, long timeoutMillis);

  static native void cancel(long handle, int client, long token);

  static native void close(long handle, long deadlineMillis);

  private Native() {}
}
