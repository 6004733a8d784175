package dev.everstep;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * Finds the native library: the file named by the property {@code everstep.library}, then {@code
 * java.library.path}, then the one in the jar, copied once into a directory that bears the hash of
 * its content.
 *
 * <p>A temporary folder is often mounted noexec and emptied by cleaners, so the copy goes to a
 * cache of the user's ({@code everstep.cache} or {@code EVERSTEP_CACHE}, else {@code
 * XDG_CACHE_HOME}, else below the home directory), and to the temporary folder only when that
 * cannot be written.
 */
final class NativeLoader {
  private static final String NAME = "everstep_java";

  private static boolean loaded;

  private NativeLoader() {}

  /** Asked each time an engine opens: what was missing may be there by then, or is told again. */
  static synchronized void load() {
    if (!loaded) {
      find();
      loaded = true;
    }
  }

  private static void find() {
    String named = setting("everstep.library", "EVERSTEP_LIBRARY");
    List<String> tried = new ArrayList<>();
    if (named != null) {
      if (!attempt(Path.of(named).toAbsolutePath(), tried)) {
        throw missing(tried);
      }
      return;
    }
    try {
      System.loadLibrary(NAME);
      return;
    } catch (UnsatisfiedLinkError error) {
      tried.add(
          System.mapLibraryName(NAME)
              + " in java.library.path ("
              + System.getProperty("java.library.path")
              + ")");
    }
    String resource = "/native/" + platform() + "/" + System.mapLibraryName(NAME);
    byte[] library;
    try (InputStream in = NativeLoader.class.getResourceAsStream(resource)) {
      if (in == null) {
        tried.add(resource + " in the jar: this jar has no library for " + platform());
        throw missing(tried);
      }
      library = in.readAllBytes();
    } catch (IOException error) {
      tried.add(resource + " in the jar: " + error.getMessage());
      throw missing(tried);
    }
    for (Path cache : caches()) {
      Path file = extract(cache, library, tried);
      if (file != null && attempt(file, tried)) {
        return;
      }
    }
    throw missing(tried);
  }

  /**
   * {@code linux-x86_64}, {@code linux-musl-aarch64}, {@code macos-aarch64}, {@code
   * windows-x86_64}.
   */
  static String platform() {
    String os = System.getProperty("os.name", "").toLowerCase(Locale.ROOT);
    String arch = System.getProperty("os.arch", "").toLowerCase(Locale.ROOT);
    String system =
        os.startsWith("linux")
            ? musl() ? "linux-musl" : "linux"
            : os.startsWith("mac") ? "macos" : os.startsWith("windows") ? "windows" : os;
    String machine =
        switch (arch) {
          case "amd64", "x86_64" -> "x86_64";
          case "arm64", "aarch64" -> "aarch64";
          default -> arch;
        };
    return system + "-" + machine;
  }

  private static boolean musl() {
    try (var loaders = Files.newDirectoryStream(Path.of("/lib"), "ld-musl-*")) {
      return loaders.iterator().hasNext() && !Files.exists(Path.of("/lib64/ld-linux-x86-64.so.2"));
    } catch (IOException error) {
      return false;
    }
  }

  private static List<Path> caches() {
    String given = setting("everstep.cache", "EVERSTEP_CACHE");
    if (given != null) {
      return List.of(Path.of(given).toAbsolutePath());
    }
    List<Path> out = new ArrayList<>();
    String xdg = System.getenv("XDG_CACHE_HOME");
    String home = System.getProperty("user.home");
    if (xdg != null && !xdg.isEmpty()) {
      out.add(Path.of(xdg, "everstep"));
    } else if (home != null && !home.isEmpty() && !home.equals("?")) {
      out.add(Path.of(home, ".cache", "everstep"));
    }
    out.add(Path.of(System.getProperty("java.io.tmpdir"), "everstep-" + user()));
    return out;
  }

  private static String user() {
    return System.getProperty("user.name", "user").replaceAll("[^A-Za-z0-9_-]", "_");
  }

  /**
   * The file of this content below {@code cache}; written beside and renamed, so that no process
   * sees half of it.
   */
  private static @Nullable Path extract(Path cache, byte[] library, List<String> tried) {
    Path file = cache.resolve(hash(library)).resolve(System.mapLibraryName(NAME));
    try {
      if (Files.isRegularFile(file) && Files.size(file) == library.length) {
        return file;
      }
      createPrivately(file.getParent());
      Path beside = Files.createTempFile(file.getParent(), "new-", ".part");
      try {
        Files.write(beside, library);
        Files.move(beside, file, StandardCopyOption.ATOMIC_MOVE);
      } catch (FileAlreadyExistsException another) {
        return file;
      } finally {
        Files.deleteIfExists(beside);
      }
      return file;
    } catch (IOException | UnsupportedOperationException error) {
      tried.add(file + ": cannot be written (" + error + ")");
      return null;
    }
  }

  /** Nobody else may put a library where we load one from. */
  private static void createPrivately(Path directory) throws IOException {
    if (directory.getFileSystem().supportedFileAttributeViews().contains("posix")) {
      Files.createDirectories(
          directory,
          PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
    } else {
      Files.createDirectories(directory);
    }
  }

  private static boolean attempt(Path file, List<String> tried) {
    try {
      System.load(file.toString());
      return true;
    } catch (UnsatisfiedLinkError error) {
      String why = String.valueOf(error.getMessage());
      if (why.contains("already loaded in another classloader")) {
        return attemptCopy(file, tried);
      }
      tried.add(file + ": " + why);
      return false;
    }
  }

  /**
   * A virtual machine gives one file to one class loader; a second one (a redeployed application)
   * loads a copy.
   */
  private static boolean attemptCopy(Path file, List<String> tried) {
    try {
      Path copy = Files.createTempFile(file.getParent(), "loader-", "-" + file.getFileName());
      try {
        Files.copy(file, copy, StandardCopyOption.REPLACE_EXISTING);
        System.load(copy.toString());
        return true;
      } finally {
        if (!platform().startsWith("windows")) {
          Files.deleteIfExists(copy);
        }
      }
    } catch (IOException | UnsatisfiedLinkError error) {
      tried.add("a copy of " + file + " for a second class loader: " + error.getMessage());
      return false;
    }
  }

  private static String hash(byte[] library) {
    try {
      byte[] digest = MessageDigest.getInstance("SHA-256").digest(library);
      return HexFormat.of().formatHex(digest, 0, 12);
    } catch (NoSuchAlgorithmException error) {
      throw new IllegalStateException("every Java platform has SHA-256", error);
    }
  }

  private static @Nullable String setting(String property, String variable) {
    String value = System.getProperty(property);
    if (value == null || value.isEmpty()) {
      value = System.getenv(variable);
    }
    return value == null || value.isEmpty() ? null : value;
  }

  private static EverstepException missing(List<String> tried) {
    return Options.invalid(
        "the native library of Everstep for "
            + platform()
            + " could not be loaded. Looked for: "
            + String.join("; ", tried)
            + ". Name a file with -Deverstep.library=FILE, or a directory it may be copied to with"
            + " -Deverstep.cache=DIRECTORY (on a file system without noexec).");
  }
}
