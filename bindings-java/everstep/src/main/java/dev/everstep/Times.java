package dev.everstep;

import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.temporal.Temporal;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Points in time and durations as payload text and as numbers of the border. In ASCII whatever the
 * locale: there are some with digits of their own.
 */
final class Times {
  private static final Pattern TIME =
      Pattern.compile(
          "(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d{1,9})?)(Z|[+-]\\d\\d:\\d\\d)?");
  private static final Pattern DATE = Pattern.compile("\\d{4}-\\d\\d-\\d\\d");

  private Times() {}

  /** An {@code OffsetDateTime}, or a {@code LocalDateTime} where the text has no offset. */
  static Temporal readTime(String text) {
    Matcher matcher = TIME.matcher(text);
    if (!matcher.matches()) {
      throw new IllegalArgumentException("not an RFC 3339 date-time");
    }
    LocalDateTime local = LocalDateTime.parse(matcher.group(1));
    return matcher.group(2) == null ? local : local.atOffset(ZoneOffset.of(matcher.group(2)));
  }

  static LocalDate readDate(String text) {
    if (!DATE.matcher(text).matches()) {
      throw new IllegalArgumentException("not a date");
    }
    return LocalDate.parse(text);
  }

  static String write(OffsetDateTime value) {
    // RFC 3339 knows offsets of whole minutes; the instant counts, so an odd one is written in UTC.
    if (value.getOffset().getTotalSeconds() % 60 != 0) {
      return write(value.withOffsetSameInstant(ZoneOffset.UTC));
    }
    return write(value.toLocalDateTime()) + value.getOffset().getId();
  }

  static String write(LocalDateTime value) {
    if (value.getYear() < 0 || value.getYear() > 9999) {
      throw Payloads.invalid("a year of RFC 3339 has four digits");
    }
    String text =
        value.toLocalDate()
            + "T"
            + String.format(
                Locale.ROOT,
                "%02d:%02d:%02d",
                value.getHour(),
                value.getMinute(),
                value.getSecond());
    if (value.getNano() == 0) {
      return text;
    }
    String fraction = String.format(Locale.ROOT, "%09d", value.getNano());
    int end = fraction.length();
    while (fraction.charAt(end - 1) == '0') {
      end--;
    }
    return text + "." + fraction.substring(0, end);
  }

  /** ISO 8601 in seconds: what a reader in another language can parse without a calendar. */
  static String write(Duration value) {
    Duration size = value.abs();
    String fraction =
        size.getNano() == 0 ? "" : String.format(Locale.ROOT, ".%09d", size.getNano());
    return (value.isNegative() ? "-" : "")
        + "PT"
        + size.getSeconds()
        + fraction.replaceAll("0+$", "")
        + "S";
  }

  static Duration readDuration(String text) {
    return Duration.parse(text);
  }

  /** Rounded up: a wait is never shorter than asked for. */
  static long milliseconds(Duration value) {
    Options.required(value, "duration");
    try {
      long whole = value.toMillis();
      return value.equals(Duration.ofMillis(whole)) ? whole : Math.addExact(whole, 1);
    } catch (ArithmeticException error) {
      throw Options.invalid("the duration " + value + " is too long");
    }
  }

  static long microseconds(Instant value) {
    Options.required(value, "point in time");
    try {
      return Math.addExact(
          Math.multiplyExact(value.getEpochSecond(), 1_000_000L), value.getNano() / 1000);
    } catch (ArithmeticException error) {
      throw Options.invalid("the point in time " + value + " is out of range");
    }
  }

  static Instant instant(long microseconds) {
    return Instant.ofEpochSecond(
        Math.floorDiv(microseconds, 1_000_000L), Math.floorMod(microseconds, 1_000_000L) * 1000);
  }
}
