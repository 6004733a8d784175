package dev.everstep;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * all, map, any and race. Branches run on threads the engine opens, each with a context of its own.
 *
 * <p>all and map wait for every branch, then raise the first failure in branch order: nothing goes
 * on behind the workflow's back. any and race record their winner; the others get their cancel
 * signal and are not waited for.
 */
final class Groups {
  private static final Logger LOG = LoggerFactory.getLogger("everstep");

  /** Platform threads at one time: a map over ten thousand items shall not make as many threads. */
  private static final int PLATFORM_THREADS = 64;

  private static final long LOOK_MILLIS = 250;

  private final String kind;
  private final WorkflowContext ctx;
  private final List<? extends Branch<?>> branches;
  private final List<String> names = new ArrayList<>();
  private final BlockingQueue<Settled> settled = new LinkedBlockingQueue<>();
  private final AtomicInteger open = new AtomicInteger();
  private long seq;
  private int recorded = -1;
  private volatile boolean decided;

  private record Settled(int index, @Nullable Object value, @Nullable Throwable error) {}

  private Groups(
      String kind,
      WorkflowContext ctx,
      List<? extends Branch<?>> branches,
      @Nullable List<String> keys) {
    this.kind = kind;
    this.ctx = ctx;
    this.branches = branches;
    for (int index = 0; index < branches.size(); index++) {
      if (branches.get(index) == null) {
        throw Options.invalid(kind + ": branch " + index + " is null");
      }
      names.add(keys == null ? Integer.toString(index) : "k:" + quoted(keys.get(index)));
    }
    if (new HashSet<>(names).size() != names.size()) {
      throw Options.invalid(kind + ": two items have the same key");
    }
  }

  /** A slash separates levels of a branch's path. */
  private static String quoted(String key) {
    return key.replace("%", "%25").replace("/", "%2F");
  }

  static List<@Nullable Object> all(
      String kind,
      WorkflowContext ctx,
      List<? extends Branch<?>> branches,
      @Nullable List<String> keys,
      int limit) {
    ctx.check(kind);
    Options.required(branches, "the branches of " + kind);
    return new Groups(kind, ctx, branches, keys).gather(limit);
  }

  static @Nullable Object first(
      String kind, WorkflowContext ctx, List<? extends Branch<?>> branches) {
    ctx.check(kind);
    if (Options.required(branches, "the branches of " + kind).isEmpty()) {
      throw Options.invalid(kind + " of nothing has no winner");
    }
    return new Groups(kind, ctx, branches, null).settle();
  }

  private void open() {
    Frame.Values verdict =
        Calls.call(ctx, Ops.BEGIN_GROUP, ctx.branch, ctx.flags, kind, Location.here());
    switch ((int) verdict.number(0)) {
      case Ops.VERDICT_RUN -> seq = verdict.number(1);
      case Ops.VERDICT_RECORDED -> {
        seq = verdict.number(3);
        if (kind.equals("any") || kind.equals("race")) {
          recorded = indexOf(verdict.get(2));
        }
      }
      default -> throw Calls.unwind(ctx.execution, verdict);
    }
  }

  /** As recorded: an index as a number, a key as a text. */
  private int indexOf(@Nullable Object winner) {
    Payloads payloads = ctx.execution.engine.payloads;
    byte[] text =
        winner instanceof String string
            ? string.getBytes(java.nio.charset.StandardCharsets.UTF_8)
            : (byte[]) winner;
    Object name = payloads.decode(text, Object.class);
    int index = names.indexOf(name instanceof String key ? "k:" + key : String.valueOf(name));
    if (index < 0) {
      throw new EverstepException(
          ErrorCode.MISMATCH,
          "the recorded winner "
              + name
              + " of this "
              + kind
              + " is none of its branches: the program has changed");
    }
    return index;
  }

  private void start(int index) {
    String path = ctx.branch + "/" + seq + "/" + names.get(index);
    Runnable work =
        () -> {
          WorkflowContext branch = new WorkflowContext(ctx.execution, path, ctx.flags);
          branch.open();
          Settled out;
          try {
            out = new Settled(index, branches.get(index).run(branch), null);
          } catch (Throwable error) {
            out = new Settled(index, null, error);
          } finally {
            branch.close();
          }
          settled.add(out);
          open.decrementAndGet();
          forgetIfOver();
        };
    open.incrementAndGet();
    try {
      ctx.execution.engine.threads.execute(work);
    } catch (Throwable error) {
      // No thread to be had is this process's trouble, not the run's.
      LOG.error("no thread for branch {} of run {}", path, ctx.execution.run, error);
      throw Calls.giveBack(ctx.execution, "no_thread");
    }
  }

  /**
   * The next branch that settles; a stop ends the wait, for a branch may be inside a long call of
   * the user's.
   */
  private Settled next() {
    boolean interrupted = false;
    try {
      while (true) {
        try {
          Settled out = settled.poll(LOOK_MILLIS, TimeUnit.MILLISECONDS);
          if (out != null) {
            return out;
          }
        } catch (InterruptedException interrupt) {
          // Nobody of ours interrupts a workflow's own thread; it is kept for the user's code.
          interrupted = true;
        }
        String why = ctx.execution.stopped;
        if (why != null) {
          throw Calls.stopped(ctx.execution, why);
        }
      }
    } finally {
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private List<@Nullable Object> gather(int limit) {
    open();
    int count = branches.size();
    int threads =
        ctx.execution.engine.threads.areVirtual() ? limit : Math.min(limit, PLATFORM_THREADS);
    @Nullable Object[] values = new Object[count];
    @Nullable Throwable[] errors = new Throwable[count];
    int started = 0;
    while (started < Math.min(threads, count)) {
      start(started++);
    }
    for (int done = 0; done < count; done++) {
      Settled last = next();
      values[last.index] = last.value;
      errors[last.index] = last.error;
      if (ctx.execution.stopped == null) {
        String path = ctx.branch + "/" + seq + "/" + names.get(last.index);
        Calls.call(ctx, Ops.LEAVE_BRANCH, path);
      }
      if (started < count) {
        start(started++);
      }
    }
    for (Throwable error : errors) {
      if (error != null) {
        throw Failure.raise(error);
      }
    }
    List<@Nullable Object> out = new ArrayList<>(count);
    for (Object value : values) {
      out.add(value);
    }
    return out;
  }

  private @Nullable Object settle() {
    open();
    int count = branches.size();
    for (int index = 0; index < count; index++) {
      if (recorded < 0 || recorded == index) {
        start(index);
      }
    }
    Map<Integer, Settled> known = new HashMap<>();
    int chosen = recorded;
    int expected = recorded < 0 ? count : 1;
    int least = Integer.MAX_VALUE;
    for (int done = 0; done < expected; done++) {
      Settled last = next();
      known.put(last.index, last);
      least = Math.min(least, last.index);
      if (recorded < 0 && (kind.equals("race") || last.error == null)) {
        chosen = finish(last.index);
        break;
      }
    }
    if (chosen < 0) {
      chosen = least;
    }
    Settled winner = known.get(chosen);
    while (winner == null) {
      Settled last = next();
      known.put(last.index, last);
      winner = known.get(chosen);
    }
    if (winner.error != null) {
      throw Failure.raise(winner.error);
    }
    return winner.value;
  }

  private int finish(int index) {
    Frame.Values verdict =
        Calls.request(ctx, Ops.FINISH_GROUP, ctx.execution.id, ctx.branch, seq, names.get(index));
    if (verdict.number(0) != Ops.VERDICT_RECORDED) {
      throw Calls.unwind(ctx.execution, verdict);
    }
    Object winner = verdict.get(2);
    int chosen = winner == null ? index : indexOf(winner);
    String group = ctx.branch + "/" + seq;
    ctx.execution.running.decide(group, group + "/" + names.get(chosen));
    decided = true;
    forgetIfOver();
    return chosen;
  }

  /** A workflow that polls with races makes thousands of them. */
  private void forgetIfOver() {
    if (decided && open.get() == 0) {
      ctx.execution.running.forget(ctx.branch + "/" + seq);
    }
  }
}
