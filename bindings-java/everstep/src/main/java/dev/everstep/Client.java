package dev.everstep;

import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Function;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * One completion queue of the engine: requests go down with a token of ours, and one daemon thread
 * brings the answers to who waits for them.
 *
 * <p>That thread is the only one that ever blocks in native code. Whoever waits is parked in Java,
 * so a virtual thread leaves its carrier.
 */
final class Client {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");
  private static final int BATCH = 1024;
  private static final long SLICE_MILLIS = 1000;
  private static final long PAUSE_NANOS = 100_000_000;

  /** An answer that came and could not be taken: there was no memory for it. */
  static final class LostAnswer extends EverstepException {
    private static final long serialVersionUID = 1L;

    LostAnswer(String why) {
      super(
          ErrorCode.INTERNAL,
          "an answer of the engine was lost (" + why + "); what was submitted may have happened");
    }
  }

  final Engine engine;
  final long handle;
  final int id;
  private final AtomicLong tokens = new AtomicLong();
  private final ConcurrentHashMap<Long, Waiter> waiting = new ConcurrentHashMap<>();
  private volatile @Nullable Thread poller;
  private volatile boolean closed;

  Client(Engine engine, long handle) {
    this.engine = engine;
    this.handle = handle;
    this.id = (int) read(Native.attach(handle, false)).number(0);
  }

  /** The values of an answer, or its error. */
  static Frame.Values read(byte[] answer) {
    Frame.Values values = Frame.read(answer, 1, answer.length);
    if (answer[0] != 0) {
      throw EverstepException.ofAnswer(values.text(0), values.text(1));
    }
    return values;
  }

  // -- requests

  Frame.Values call(int op, @Nullable Object... arguments) {
    return call(op, Frame.of(arguments));
  }

  Frame.Values call(int op, Frame frame) {
    return read(Native.call(handle, op, frame.bytes, frame.length));
  }

  /** Registered before anything is asked: an answer finds its waiter. */
  long expect(Waiter waiter) {
    long token = tokens.incrementAndGet();
    waiting.put(token, waiter);
    if (closed) {
      // The poller may have looked for waiters before this one was there.
      forget(token);
      throw closedError();
    }
    return token;
  }

  void forget(long token) {
    waiting.remove(token);
  }

  /** How many answers are waited for. */
  int waiting() {
    return waiting.size();
  }

  private void submit(long token, int op, Frame frame) {
    boolean submitted = false;
    try {
      if (poller == null) {
        startPolling();
      }
      submitted = Native.submit(handle, id, token, op, frame.bytes, frame.length);
    } finally {
      if (!submitted) {
        forget(token);
      }
    }
    if (!submitted) {
      throw closedError();
    }
  }

  /** From a thread of the user's: an interrupt ends the wait. */
  Frame.Values request(int op, @Nullable Object... arguments) {
    return request(true, op, arguments);
  }

  Frame.Values request(boolean interruptible, int op, @Nullable Object... arguments) {
    return request(new Waiter.Parked(), interruptible, op, arguments);
  }

  Frame.Values request(
      Waiter.Parked waiter, boolean interruptible, int op, @Nullable Object... arguments) {
    // First: what cannot be written leaves nobody waiting.
    Frame frame = Frame.of(arguments);
    long token = expect(waiter);
    submit(token, op, frame);
    try {
      return waiter.await(interruptible);
    } catch (WaitInterrupted interrupted) {
      forget(token);
      Native.cancel(handle, id, token);
      throw interrupted;
    }
  }

  @SuppressWarnings("FutureReturnValueIgnored") // It hangs on the one that is returned.
  <T extends @Nullable Object> CompletableFuture<T> requestAsync(
      Function<Frame.Values, T> read, @Nullable String run, int op, @Nullable Object... arguments) {
    Waiter.Future<T> waiter = new Waiter.Future<>(engine.threads, read, run);
    Frame frame = Frame.of(arguments);
    long token = expect(waiter);
    submit(token, op, frame);
    waiter.future.whenComplete(
        (value, error) -> {
          // Ended from outside, by cancel() or orTimeout(): nobody waits for the answer any more.
          if (waiting.remove(token) != null) {
            Native.cancel(handle, id, token);
          }
        });
    return waiter.future;
  }

  /** Nobody waits for the answer; a failure is logged. */
  void submitQuietly(int op, @Nullable Object... arguments) {
    submit(tokens.incrementAndGet(), op, Frame.of(arguments));
  }

  private static EverstepException closedError() {
    return new EverstepException(
        ErrorCode.CLOSED, "the engine is closed; what was submitted may still take effect");
  }

  // -- events

  synchronized void startPolling() {
    if (poller == null && !closed) {
      Thread thread = new Thread(null, this::poll, "everstep-poller", 0, false);
      thread.setDaemon(true);
      // The loader of whoever came first is not ours to keep alive.
      thread.setContextClassLoader(Client.class.getClassLoader());
      thread.start();
      poller = thread;
    }
  }

  /** Nothing ends this thread but the end of the engine: every call waits for what it brings. */
  private void poll() {
    try {
      while (!closed) {
        byte[] events;
        try {
          events = Native.drain(handle, id, BATCH, SLICE_MILLIS);
        } catch (Throwable error) {
          lost(error);
          continue;
        }
        handOut(events);
      }
    } finally {
      failAll(Client::closedError);
    }
  }

  private void handOut(byte[] events) {
    int at = 0;
    while (at < events.length) {
      long token = Frame.int64(events, at);
      int kind = Frame.int32(events, at + 8) & 0xff;
      int from = at + 16;
      at = from + Frame.int32(events, at + 12);
      try {
        event(token, kind, events, from, at);
      } catch (Throwable error) {
        // Whatever one event does, the next one has someone waiting for it.
        say("an event of the engine could not be handled", error);
        if (kind == Ops.EVENT_RUN_READY) {
          giveBack(token);
        }
      }
    }
  }

  /**
   * What was drained is gone, and nobody knows whose answers those were. Each that is waited for
   * fails, so that nobody waits for good: runs are given back ({@link Calls}), callers are told.
   */
  private void lost(Throwable error) {
    say("answers of the engine were lost", error);
    boolean told = false;
    while (!told && !closed) {
      LockSupport.parkNanos(PAUSE_NANOS);
      try {
        failAll(() -> new LostAnswer(Failure.typeOf(error)));
        told = true;
      } catch (Throwable again) {
        say("who waits for them could not be told", again);
      }
    }
  }

  /** A run that could not be begun here would be owned by this process and executed by nobody. */
  private void giveBack(long execution) {
    boolean told = false;
    while (!told && !closed) {
      try {
        engine.executions.remove(execution);
        call(Ops.ABANDON, execution, "internal");
        told = true;
      } catch (EverstepException refused) {
        say("a run was not given back", refused);
        told = true;
      } catch (Throwable error) {
        say("a run was not given back yet", error);
        LockSupport.parkNanos(PAUSE_NANOS);
      }
    }
  }

  /** A logger of the user's may fail, too, out of memory first of all. */
  private static void say(String what, Throwable error) {
    try {
      LOG.error(what, error);
    } catch (Throwable unsaid) {
      error.addSuppressed(unsaid);
    }
  }

  private void event(long token, int kind, byte[] events, int from, int end) {
    if (kind == Ops.EVENT_COMPLETED || kind == Ops.EVENT_FAILED) {
      Waiter waiter = waiting.remove(token);
      if (waiter != null) {
        waiter.answer(kind, events, from, end);
      } else if (kind == Ops.EVENT_FAILED) {
        Frame.Values answer = Frame.read(events, from, end);
        LOG.error("[{}] {}", answer.text(0), answer.text(1));
      }
      return;
    }
    Frame.Values frame = Frame.read(events, from, end);
    switch (kind) {
      case Ops.EVENT_RUN_READY -> engine.runReady(this, token, frame);
      case Ops.EVENT_STOP -> {
        Execution execution = engine.executions.remove(token);
        if (execution != null) {
          execution.stop(frame.text(0));
        }
      }
      case Ops.EVENT_SIGNAL -> {
        Execution execution = engine.executions.get(token);
        if (execution != null) {
          execution.signal(frame);
        }
      }
      case Ops.EVENT_LOG -> log(frame.text(0), frame.text(1), frame.text(2));
      default -> {}
    }
  }

  private static void log(String level, String code, String message) {
    switch (level) {
      case "debug" -> LOG.debug("[{}] {}", code, message);
      case "warn", "warning" -> LOG.warn("[{}] {}", code, message);
      case "error" -> LOG.error("[{}] {}", code, message);
      default -> LOG.info("[{}] {}", code, message);
    }
  }

  /** No further events: every waiter learns that none will come. */
  synchronized void close() {
    closed = true;
  }

  void failAll() {
    failAll(Client::closedError);
  }

  private void failAll(Supplier<EverstepException> error) {
    for (Long token : Arrays.asList(waiting.keySet().toArray(new Long[0]))) {
      Waiter waiter = waiting.remove(token);
      if (waiter != null) {
        waiter.fail(error.get());
      }
    }
  }
}
