package dev.everstep;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Frames of the border, packed and unpacked: positional values, little-endian. Knows the kinds of
 * values and no operation.
 */
final class Frame {
  byte[] bytes = new byte[256];
  int length;

  private Frame() {}

  static Frame of(@Nullable Object... values) {
    return new Frame().add(values);
  }

  Frame add(@Nullable Object... values) {
    for (Object value : values) {
      write(value);
    }
    return this;
  }

  private void write(@Nullable Object value) {
    if (value == null) {
      tag(0, 0);
    } else if (value instanceof String text) {
      write(text);
    } else if (value instanceof byte[] data) {
      tag(6, 4 + data.length);
      int32(data.length);
      System.arraycopy(data, 0, bytes, length, data.length);
      length += data.length;
    } else if (value instanceof Long || value instanceof Integer) {
      tag(3, 8);
      int64(((Number) value).longValue());
    } else if (value instanceof Boolean flag) {
      tag(flag ? 2 : 1, 0);
    } else if (value instanceof Double number) {
      tag(4, 8);
      int64(Double.doubleToRawLongBits(number));
    } else if (value instanceof List<?> items) {
      tag(7, 4);
      int32(items.size());
      for (Object item : items) {
        write(item);
      }
    } else {
      throw new IllegalArgumentException("no value of the border: " + value.getClass());
    }
  }

  private void write(String text) {
    requireWellFormed(text);
    byte[] data = text.getBytes(StandardCharsets.UTF_8);
    tag(5, 4 + data.length);
    int32(data.length);
    System.arraycopy(data, 0, bytes, length, data.length);
    length += data.length;
  }

  /** Java would write a question mark for it: another id than the one that was meant. */
  private static void requireWellFormed(String text) {
    for (int index = 0; index < text.length(); index++) {
      if (Character.isSurrogate(text.charAt(index))) {
        if (TagReader.isWellFormed(text)) {
          return;
        }
        throw new EverstepException(
            ErrorCode.ID_INVALID,
            "an id, name or text holds a lone surrogate, which has no UTF-8 form");
      }
    }
  }

  private void tag(int tag, int room) {
    if (length + 1 + room > bytes.length) {
      bytes = Arrays.copyOf(bytes, Math.max(bytes.length * 2, length + 1 + room));
    }
    bytes[length++] = (byte) tag;
  }

  private void int32(int value) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes[length++] = (byte) (value >>> shift);
    }
  }

  private void int64(long value) {
    for (int shift = 0; shift < 64; shift += 8) {
      bytes[length++] = (byte) (value >>> shift);
    }
  }

  /** The values of the frame in {@code bytes} from {@code from} up to {@code end}. */
  static Values read(byte[] bytes, int from, int end) {
    Reader reader = new Reader(bytes, from);
    List<@Nullable Object> out = new ArrayList<>(8);
    while (reader.at < end) {
      out.add(reader.value());
    }
    return new Values(out);
  }

  static int int32(byte[] bytes, int at) {
    return (bytes[at] & 0xff)
        | (bytes[at + 1] & 0xff) << 8
        | (bytes[at + 2] & 0xff) << 16
        | bytes[at + 3] << 24;
  }

  static long int64(byte[] bytes, int at) {
    return (int32(bytes, at) & 0xffffffffL) | (long) int32(bytes, at + 4) << 32;
  }

  private static final class Reader {
    private final byte[] bytes;
    private int at;

    Reader(byte[] bytes, int at) {
      this.bytes = bytes;
      this.at = at;
    }

    @Nullable Object value() {
      int tag = bytes[at++];
      return switch (tag) {
        case 0 -> null;
        case 1 -> false;
        case 2 -> true;
        case 3 -> number();
        case 4 -> Double.longBitsToDouble(number());
        case 5 -> {
          int size = size();
          String text = new String(bytes, at, size, StandardCharsets.UTF_8);
          at += size;
          yield text;
        }
        case 6 -> {
          int size = size();
          byte[] data = Arrays.copyOfRange(bytes, at, at + size);
          at += size;
          yield data;
        }
        case 7 -> {
          int size = size();
          List<@Nullable Object> items = new ArrayList<>(size);
          for (int index = 0; index < size; index++) {
            items.add(value());
          }
          yield items;
        }
        default -> throw new IllegalArgumentException("no tag of the border: " + tag);
      };
    }

    private long number() {
      long value = int64(bytes, at);
      at += 8;
      return value;
    }

    private int size() {
      int size = int32(bytes, at);
      at += 4;
      return size;
    }
  }

  /** The values of one frame; what lies behind its end is null. */
  static final class Values {
    private final List<@Nullable Object> items;

    Values(List<@Nullable Object> items) {
      this.items = items;
    }

    @Nullable Object get(int index) {
      return index < items.size() ? items.get(index) : null;
    }

    long number(int index) {
      return get(index) instanceof Long number ? number : 0;
    }

    @Nullable Long optionalNumber(int index) {
      return (Long) get(index);
    }

    boolean flag(int index) {
      return Boolean.TRUE.equals(get(index));
    }

    String text(int index) {
      return get(index) instanceof String text ? text : "";
    }

    @Nullable String optionalText(int index) {
      return (String) get(index);
    }

    byte @Nullable [] bytes(int index) {
      return (byte[]) get(index);
    }

    @SuppressWarnings("unchecked")
    List<@Nullable Object> list(int index) {
      Object value = get(index);
      return value == null ? List.of() : (List<@Nullable Object>) value;
    }

    /** A record inside the frame. */
    Values record(int index) {
      return new Values(list(index));
    }
  }
}
