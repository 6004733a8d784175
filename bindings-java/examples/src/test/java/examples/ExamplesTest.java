package examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Every example runs and prints what its last comment says. */
final class ExamplesTest {
  @TempDir Path directory;

  @ParameterizedTest
  @ValueSource(strings = {"Quickstart", "Parallel", "Conversation", "Client"})
  void printsWhatItSays(String name) throws Exception {
    List<String> source = Files.readAllLines(Path.of("src/main/java/examples/" + name + ".java"));
    List<String> wanted =
        source.subList(source.indexOf("// Output:") + 1, source.size()).stream()
            .map(line -> line.substring(3))
            .toList();
    assertFalse(wanted.isEmpty(), "an example ends with its output");
    Path java = Path.of(System.getProperty("java.home"), "bin", "java");
    Path output = directory.resolve("output");
    ProcessBuilder command =
        new ProcessBuilder(
                java.toString(), "-cp", System.getProperty("java.class.path"), "examples." + name)
            .directory(directory.toFile())
            .redirectOutput(output.toFile())
            .redirectError(ProcessBuilder.Redirect.INHERIT);
    command.environment().keySet().removeIf(variable -> variable.startsWith("EVERSTEP_"));
    Process process = command.start();
    assertEquals(true, process.waitFor(60, TimeUnit.SECONDS));
    assertEquals(0, process.exitValue());
    assertEquals(wanted, Files.readAllLines(output));
  }
}
