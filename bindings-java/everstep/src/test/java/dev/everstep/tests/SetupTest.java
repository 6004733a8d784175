package dev.everstep.tests;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.everstep.ErrorCode;
import dev.everstep.Everstep;
import dev.everstep.EverstepException;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Databases that cannot be used: each says so soon, with a code, and without the password. */
@Timeout(60)
final class SetupTest {
  private static final String SECRET = "hunter2";

  private static EverstepException refused(String database) {
    return refused(database, "everstep");
  }

  private static EverstepException refused(String database, String schema) {
    try (Everstep app =
        Everstep.open(
            o ->
                o.database(database)
                    .setting("schema", schema)
                    .outageBudget(Duration.ofSeconds(2))
                    .closeAtExit(false))) {
      EverstepException error = assertThrows(EverstepException.class, app::launch);
      assertFalse(app.isRunning());
      assertFalse(error.toString().contains(SECRET), error.toString());
      // It may be tried again: the reason may be gone.
      assertEquals(error.code(), assertThrows(EverstepException.class, app::launch).code());
      return error;
    }
  }

  /** A server that asks for a password and takes none. */
  private static Throwable refusePassword(ServerSocket server) {
    Throwable last = null;
    while (!server.isClosed()) {
      try (Socket socket = server.accept();
          DataInputStream in = new DataInputStream(socket.getInputStream());
          DataOutputStream out = new DataOutputStream(socket.getOutputStream())) {
        int length = in.readInt();
        if (in.readInt() == 80877103) {
          // Asks for TLS: no.
          out.write('N');
          length = in.readInt();
          in.readInt();
        }
        in.skipNBytes(length - 8);
        out.write('R');
        out.writeInt(8);
        out.writeInt(3);
        if (in.read() == 'p') {
          in.skipNBytes(in.readInt() - 4);
          byte[] why =
              "SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"ada\"\0\0"
                  .getBytes(StandardCharsets.US_ASCII);
          out.write('E');
          out.writeInt(4 + why.length);
          out.write(why);
        }
      } catch (IOException gone) {
        // The client, or the server with the end of the test.
        last = gone;
      }
    }
    return last;
  }

  @Test
  void aWrongPassword() throws Exception {
    try (ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
      Thread thread = new Thread(() -> refusePassword(server));
      thread.setDaemon(true);
      thread.start();
      EverstepException error =
          refused("postgresql://ada:" + SECRET + "@127.0.0.1:" + server.getLocalPort() + "/db");
      assertEquals(ErrorCode.DATABASE_AUTH, error.code(), error.getMessage());
    }
  }

  @Test
  void anUnreachableHost() throws Exception {
    int port;
    try (ServerSocket free = new ServerSocket(0)) {
      port = free.getLocalPort();
    }
    EverstepException error = refused("postgresql://ada:" + SECRET + "@127.0.0.1:" + port + "/db");
    assertEquals(ErrorCode.DATABASE_UNREACHABLE, error.code());
    assertTrue(error.getMessage().contains("127.0.0.1"), error.getMessage());
    assertTrue(error.getMessage().contains("" + port), error.getMessage());
  }

  private static void sql(TestDatabase database, String statement) throws SQLException {
    try (Connection connection = DriverManager.getConnection(database.jdbcUrl());
        Statement call = connection.createStatement()) {
      call.execute(statement);
    }
  }

  @Test
  void aReadOnlyServer() throws Exception {
    TestDatabase database = TestDatabase.postgres();
    String name = "read_only_" + database.schema();
    sql(database, "create database " + name);
    sql(database, "alter database " + name + " set default_transaction_read_only = on");
    String url = database.url().substring(0, database.url().lastIndexOf('/') + 1) + name;
    EverstepException error = refused(url);
    assertEquals(ErrorCode.DATABASE_READ_ONLY, error.code(), error.getMessage());
    sql(database, "drop database " + name + " with (force)");
  }

  @Test
  void aSchemaOfANewerLibrary() throws Exception {
    TestDatabase database = TestDatabase.postgres();
    try (Everstep app = Everstep.open(database::apply)) {
      app.launch();
    }
    sql(
        database,
        "update " + database.schema() + ".meta set value = '999' where key = 'min_compatible'");
    EverstepException error = refused(database.url(), database.schema());
    assertEquals(ErrorCode.SCHEMA_TOO_NEW, error.code());
    assertTrue(error.getMessage().contains("999"), error.getMessage());
  }

  @Test
  void aFileThatIsNoDatabaseIsLeftAsItIs(@TempDir Path directory) throws Exception {
    Path notes = directory.resolve("notes.db");
    String text = "no database, whatever its name says\n".repeat(200);
    Files.writeString(notes, text);
    for (Path path : new Path[] {notes, directory, directory.resolve("no/such/file.db")}) {
      EverstepException error = refused("sqlite:" + path);
      assertTrue(error.getMessage().contains(path.toString()), error.toString());
    }
    assertEquals(text, Files.readString(notes));
  }
}
