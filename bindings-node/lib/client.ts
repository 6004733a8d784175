/** The client of this environment: one promise a token, and the turns that put recorded completions in order. */

import { Closed, InternalError } from "./errors_gen.js";
import { Cancelled, errorOf, nativeError } from "./failures.js";
import { StepTimeout } from "./errors_gen.js";
import { type Frame, Reader, type Value, Writer, pack, unpack } from "./frame.js";
import type { Engine } from "./engine.js";
import { native } from "./native.js";
import { EVENT_COMPLETED, EVENT_FAILED, EVENT_LOG, EVENT_RUN_READY, EVENT_SIGNAL, EVENT_STOP, OP_ABANDON, OP_TURN } from "./ops_gen.js";
import { log, logEvent } from "./logging.js";
import { Pending, type Waiter } from "./pending.js";
import { run } from "./runner.js";
import { Execution, JOB } from "./scope.js";
import { outside } from "./surroundings.js";
import { setImmediate } from "./timers.js";

const TURN = 256;

/**
 * A turn of the loop is over when everything runnable has run. All promise callbacks, however long their chain, run before the loop goes on, so one
 * `setImmediate` is behind them; the second lets code that itself waits for a `setImmediate` between two steps come first, too.
 */
const IMMEDIATES_A_TURN = 2;

export class Client {
  readonly id: number;
  private readonly pending = new Pending();
  private turns: { left: number; execution: Execution }[] = [];
  private turning = false;
  private readonly answer = Buffer.allocUnsafeSlow(64 * 1024);
  private readonly answers = new Reader(this.answer, true);

  constructor(
    private readonly engine: Engine,
    readonly handle: number,
  ) {
    try {
      const heard = (batch: Uint8Array): void => {
        new Reader(batch, false).events(this.event);
      };
      this.id = outside(() => native().attach(handle, true, heard));
    } catch (error) {
      throw nativeError(error);
    }
  }

  newToken(): number {
    return this.pending.newToken();
  }

  get idle(): boolean {
    return this.pending.size === 0;
  }

  /** In memory, never blocks. */
  call(op: number, values: readonly Value[] | Writer): Frame {
    const frame = values instanceof Writer ? values : pack(values);
    const found = native().call(this.handle, op, frame.bytes, frame.length, this.answer);
    const [bytes, answer] = typeof found === "number" ? [this.answer, this.answers.frame(1, found)] : [found, new Reader(found, false).frame(1, found.length)];
    if (bytes[0] !== 0) throw errorOf(String(answer[0]), String(answer[1]));
    return answer;
  }

  /** What comes for the token of a `begin_*` goes to the waiter. */
  expect(token: number, waiter: Waiter): void {
    this.pending.add(token, waiter);
    this.engine.holdLoop();
  }

  /** A submit; that of a run may ask for a turn of its execution. */
  askFor(waiter: Waiter, op: number, values: readonly Value[] | Writer): void {
    const token = this.newToken();
    this.expect(token, waiter);
    try {
      this.submit(token, op, values);
    } catch (error) {
      // A value that has no place in a frame: nothing was submitted, so nothing will answer.
      this.fail(token, error);
    }
  }

  /** The same, as a promise. */
  ask(execution: Execution | undefined, op: number, values: readonly Value[]): Promise<Frame> {
    return new Promise((resolve, reject) => {
      this.askFor({ token: 0, resolve, reject, execution }, op, values);
    });
  }

  /** Nobody waits for the answer; a failure is logged. */
  submitQuietly(op: number, values: readonly Value[]): void {
    this.submit(this.newToken(), op, values);
  }

  private submit(token: number, op: number, values: readonly Value[] | Writer): void {
    const frame = values instanceof Writer ? values : pack(values);
    if (!native().submit(this.handle, this.id, token, op, frame.bytes, frame.length)) this.fail(token, new Closed("the engine is closed"));
  }

  private fail(token: number, error: unknown): void {
    this.pending.take(token)?.reject(error);
  }

  /** The engine is closed: whoever still waits outside a run hears it. Inside, the execution has ended, and its promises with it. */
  leave(): void {
    const waiting = this.pending.takeAll();
    this.turns = [];
    for (const waiter of waiting) {
      if (waiter.execution === undefined) waiter.reject(new Closed("the engine was closed while this call waited; what was submitted may still take effect"));
    }
  }

  private readonly event = (token: number, kind: number, frame: Frame): void => {
    const bare = kind % TURN;
    if (bare <= EVENT_FAILED) {
      const waiter = this.pending.take(token);
      if (waiter !== undefined) {
        if (bare === EVENT_COMPLETED) waiter.resolve(frame);
        else waiter.reject(errorOf(String(frame[0]), String(frame[1])));
        if (kind >= TURN && waiter.execution !== undefined) this.wantTurn(waiter.execution);
        if (this.pending.size === 0) this.engine.mayBeIdle();
        return;
      }
    }
    try {
      this.other(token, bare, frame);
    } catch (error) {
      log.error("an event of the engine could not be handled", { error });
    }
  };

  private other(token: number, kind: number, frame: Frame): void {
    switch (kind) {
      case EVENT_RUN_READY:
        this.runReady(token, frame);
        return;
      case EVENT_STOP: {
        const execution = this.engine.executions.get(token);
        this.engine.executions.delete(token);
        execution?.stop(String(frame[0]));
        return;
      }
      case EVENT_SIGNAL: {
        const execution = this.engine.executions.get(token);
        if (execution !== undefined) signal(execution, frame);
        return;
      }
      case EVENT_LOG:
        logEvent(String(frame[0]), String(frame[1]), String(frame[2]));
        return;
      case EVENT_FAILED:
        log.error(String(frame[1]), { code: String(frame[0]) });
        return;
      default:
    }
  }

  private runReady(token: number, frame: Frame): void {
    const execution = new Execution(this.engine, this, token, frame);
    const registered = this.engine.functions.get(execution.name);
    if (registered === undefined) {
      this.call(OP_ABANDON, [token, "unknown_workflow"]);
      return;
    }
    this.engine.executions.set(token, execution);
    this.engine.holdLoop();
    run(execution, registered, frame[6] instanceof Uint8Array ? frame[6] : null);
  }

  // -- turns

  /** One at a time an execution: two of its completions in one callback would leave no room for the code between them. */
  wantTurn(execution: Execution): void {
    if (execution.turning) return;
    execution.turning = true;
    this.turns.push({ left: IMMEDIATES_A_TURN, execution });
    if (!this.turning) {
      this.turning = true;
      setImmediate(this.nextTurns);
    }
  }

  private readonly nextTurns = (): void => {
    const due = this.turns;
    this.turns = [];
    for (const turn of due) {
      if (--turn.left > 0) this.turns.push(turn);
      else this.turn(turn.execution);
    }
    this.turning = this.turns.length > 0;
    if (this.turning) setImmediate(this.nextTurns);
  };

  private turn(execution: Execution): void {
    execution.turning = false;
    if (execution.stopped !== undefined || this.engine.closed) return;
    let answer: Frame;
    try {
      answer = this.call(OP_TURN, [execution.id]);
    } catch (error) {
      log.error("a turn failed", { error });
      return;
    }
    const [more, token, verdict] = answer;
    if (typeof token === "number" && verdict instanceof Uint8Array) {
      this.pending.take(token)?.resolve(unpack(verdict));
    }
    if (more === true) {
      execution.turning = true;
      this.turns.push({ left: IMMEDIATES_A_TURN, execution });
    }
  }
}

function signal(execution: Execution, frame: Frame): void {
  const [kind, first, second] = frame;
  const text = (value: unknown): string => (typeof value === "string" ? value : "");
  switch (kind) {
    case "cancel": {
      execution.cancelled = { by: text(first), why: text(second) };
      for (const step of execution.running()) {
        if (!step.shielded) step.raise("cancel", new Cancelled(text(first), text(second)));
      }
      return;
    }
    case "timeout": {
      // A step that runs as a job of its own has no place in another run.
      for (const step of execution.running()) {
        if (step.branch === JOB || (step.branch === first && step.seq === second)) step.raise("timeout", new StepTimeout(`step ${JSON.stringify(step.name)} took too long`));
      }
      return;
    }
    case "branch": {
      execution.leaveBranch(text(first), new Cancelled("", "another branch has won"));
      return;
    }
    default:
      throw new InternalError(`unknown signal ${String(kind)}`);
  }
}
