import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** What both programs under measurement share: lines of JSON out, a line of stdin to begin. */
final class Child {
  static final ObjectMapper JSON = new ObjectMapper();
  static final String OUTPUT = "x".repeat(98);
  private static final BufferedReader IN =
      new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

  private Child() {}

  static JsonNode options(String text) throws IOException {
    return JSON.readTree(text);
  }

  static void say(String word, Object value) throws IOException {
    System.out.println(JSON.writeValueAsString(Map.of(word, value)));
    System.out.flush();
  }

  /** False when there will be no more. */
  static boolean waitForGo() throws IOException {
    return IN.readLine() != null;
  }

  static double residentMb() throws IOException {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmRSS:")) {
        return Long.parseLong(line.replaceAll("[^0-9]", "")) / 1024.0;
      }
    }
    throw new IOException("no VmRSS in /proc/self/status");
  }

  static double percentile(List<Double> values, double share) {
    double[] ordered = values.stream().mapToDouble(Double::doubleValue).toArray();
    Arrays.sort(ordered);
    return ordered[Math.min(ordered.length - 1, (int) (share * ordered.length))];
  }

  static double secondsSince(long began) {
    return (System.nanoTime() - began) / 1e9;
  }
}
