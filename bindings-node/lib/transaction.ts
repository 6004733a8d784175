/** Transactional steps: the user's rows and the checkpoint commit together or not at all (`core/docs/protocol.md`, "Transactions"). */

import { AsyncResource } from "node:async_hooks";
import { CUT_SHORT, DROPPED, LEFT, type Outcome, begin, call, left, mayBeUnheard, pending, raised, result, timedOut, unwind } from "./calls.js";
import { OutsideRun, TransactionFailed, Unavailable } from "./errors_gen.js";
import { isA } from "./failures.js";
import { type Frame, Text, type Value } from "./frame.js";
import { log } from "./logging.js";
import {
  KIND_TRANSACTION,
  OP_BEGIN_STEP,
  OP_FINISH_STEP,
  OP_TX_COMMIT,
  OP_TX_DONE,
  OP_TX_GUARD,
  OP_TX_OPEN,
  OP_TX_ROLLBACK,
  VERDICT_PENDING,
  VERDICT_RECORDED,
  VERDICT_RUN,
} from "./ops_gen.js";
import { Transaction } from "./own_transaction.js";
import type { Waiter } from "./pending.js";
import type { Registered } from "./registered.js";
import { type Execution, HERE, RunningStep, type Scope } from "./scope.js";
import { StepContext } from "./step_context.js";
import { type OpenTransaction, type TransactionSource, isConflict, isLost, isRefusal, knowsNoEngine, sqlState } from "./transaction_source.js";

type Body = (transaction: unknown, input: unknown, context: StepContext) => unknown;

/** What is asked of the engine after an attempt. */
interface Ended {
  sent: Outcome;
  op: number;
  values: readonly Value[];
}

interface Attempt {
  scope: Scope;
  step: Registered;
  input: unknown;
  running: RunningStep;
  /** branch, seq, attempt: what every operation on it names. */
  at: readonly [string, number, number];
  /** The user's function, once it has begun. */
  body?: Promise<unknown>;
  /** It has thrown, and its transaction was rolled back: the connection is there. */
  connected?: boolean;
}

export function callTransaction(scope: Scope, step: Registered, location: string, input: unknown, key: string | undefined): Promise<unknown> {
  const made = new TransactionCall(scope, step, location, input);
  made.begin(key);
  return made.promise;
}

/** The call between two verdicts. A verdict registers its attempt before the next event is looked at: a signal right behind it must find whom it is for. */
class TransactionCall implements Waiter {
  readonly execution: Execution;
  readonly promise: Promise<unknown>;
  token = 0;
  private fulfil!: (value: unknown) => void;
  private refuse!: (error: unknown) => void;
  /** The attempt under way, through its conflicts. */
  private running: RunningStep | undefined;
  private sent: Outcome | undefined;
  /** The function runs in the surroundings of its caller, not in those of the event that begins it. */
  private readonly surroundings = new AsyncResource("EverstepTransaction", { requireManualDestroy: true });

  constructor(
    private readonly scope: Scope,
    private readonly step: Registered,
    private readonly location: string,
    private readonly input: unknown,
  ) {
    this.execution = scope.execution;
    this.promise = new Promise((fulfil, refuse) => {
      this.fulfil = fulfil;
      this.refuse = refuse;
    });
  }

  begin(key: string | undefined): void {
    const { scope, step } = this;
    try {
      const { token, verdict } = begin(scope, OP_BEGIN_STEP, [KIND_TRANSACTION, step.name, this.location, step.encodeInput(this.input), key, step.policy]);
      this.token = token;
      this.next(verdict);
    } catch (error) {
      this.reject(error);
    }
  }

  resolve(verdict: Frame): void {
    try {
      this.surroundings.runInAsyncScope(this.next, this, verdict);
    } catch (error) {
      this.reject(error);
    }
  }

  /** A call that was dropped never settles, nor does one of an execution that has ended. */
  reject(error: unknown): void {
    this.over();
    if (error === DROPPED || this.execution.stopped !== undefined) return;
    mayBeUnheard(this.promise, error);
    this.refuse(error);
  }

  private next(verdict: Frame): void {
    if (verdict[0] === VERDICT_RUN) {
      this.attempt(verdict);
      return;
    }
    this.over();
    if (verdict[0] === VERDICT_RECORDED) this.fulfil(result(this.execution, this.step, verdict, this.sent));
    else if (verdict[0] === VERDICT_PENDING) pending(this.token, verdict, this);
    else unwind(this.execution, verdict);
  }

  private attempt([, seq, attempt, idempotencyKey]: Frame): void {
    const { execution, scope, step, input } = this;
    execution.replaying = false;
    // After a conflict the same attempt runs again, within the time it was given at first: what cut it short during the back-off still does.
    if (this.running?.attempt !== Number(attempt)) {
      this.over();
      this.running = new RunningStep(execution, step.name, scope.branch, Number(seq), Number(attempt), String(idempotencyKey), this.location, scope.isShielded);
      execution.begun(this.running);
    }
    const { running } = this;
    attemptOf({ scope, step, input, running, at: [running.branch, running.seq, running.attempt] }).then(
      (ended) => {
        this.ended(ended);
      },
      (error: unknown) => {
        this.reject(error);
      },
    );
  }

  private ended({ sent, op, values }: Ended): void {
    const { execution } = this;
    this.sent = sent;
    // All others may be answered with the same attempt once more.
    if (op === OP_FINISH_STEP) this.over();
    // A stopped execution records nothing; but what is open on the engine's connection, only the engine ends.
    if (execution.stopped !== undefined && op !== OP_TX_COMMIT) this.over();
    else execution.client.askFor(this, op, values);
  }

  private over(): void {
    if (this.running !== undefined) this.execution.over(this.running);
    this.running = undefined;
  }
}

/** Opens, runs and ends one transaction. */
async function attemptOf(attempt: Attempt): Promise<Ended> {
  const { scope, step, running, at } = attempt;
  const { execution } = scope;
  let outcome: Outcome;
  try {
    return step.source === null || step.source === undefined ? await own(attempt) : await onDriver(attempt, step.source);
  } catch (error) {
    if (running.signal === undefined && isOfTheConnection(attempt, error)) return done(attempt, "conflict", EMPTY);
    if (running.signal === undefined) outcome = raised(step, error, execution, isA(error, EndedByItself));
    else outcome = running.signal === "timeout" ? timedOut(step, execution) : CUT_SHORT;
  }
  return { sent: outcome, op: OP_FINISH_STEP, values: [execution.id, ...at, ...outcome.fields] };
}

/**
 * The connection went, or there was none to be had. An error of the function's own reads like that, too, an HTTP call's `ECONNREFUSED` first of all, and running it
 * again sixty times is not what was asked for: it is believed only where the transaction could not even be rolled back.
 */
function isOfTheConnection({ step, connected }: Attempt, error: unknown): boolean {
  if (step.source === null || step.source === undefined) return isA(error, Unavailable);
  return connected === true ? sqlState(error) !== undefined && isLost(error) : isA(error, Unavailable) || isLost(error);
}

const EMPTY = new Text("");

function done({ scope, at }: Attempt, word: string, output: Text, value?: unknown): Ended {
  return { sent: { fields: [], output, value }, op: OP_TX_DONE, values: [scope.execution.id, ...at, word, output === EMPTY ? null : output] };
}

/** The transaction is not waited for any longer. The user's function may still be running, or it never began. */
class Left extends Error {
  constructor() {
    super("the transaction is not waited for any longer");
  }
}

/** Opens the transaction. One that opens only after the attempt was left, for a pool that has nothing free may take its time, is `closed` again at once. */
async function opened<T>({ running }: Attempt, open: () => Promise<T>, closed: (late: T) => unknown): Promise<T> {
  if (running.signal !== undefined) throw new Left();
  let opening: Promise<T> | undefined;
  const transaction = await left(running, () => (opening = Promise.resolve(open())));
  if (transaction !== LEFT) return transaction as T;
  opening?.then(closed, (error: unknown) => {
    log.debug("a transaction that was not waited for did not open", { error });
  });
  throw new Left();
}

/** The user's function. A signal that says it is not waited for is an error here: the transaction must be rolled back. */
async function runBody(attempt: Attempt, given: unknown): Promise<unknown> {
  const { step, input, running } = attempt;
  // It came while the transaction opened, and whoever it told was no function yet.
  if (running.signal !== undefined) throw new Left();
  // Adopted once: a query that runs as often as somebody asks for its result is a promise, too.
  const value = await left(running, () => (attempt.body = Promise.resolve(HERE.run(running, step.body as Body, given, input, new StepContext(running)))));
  if (value === LEFT) throw new Left();
  // Another thing than `Left`: this function has ended.
  if ((running.signal as string | undefined) !== undefined) throw new Error(`the transaction was cut short (${String(running.signal)})`);
  // From here on the outcome is the database's: a signal must not tear the COMMIT apart.
  running.onLeave = undefined;
  return value;
}

async function onDriver(attempt: Attempt, source: TransactionSource<unknown>): Promise<Ended> {
  const { scope, step, at } = attempt;
  const transaction = await opened(attempt, () => source.open(), rolledBack);
  let value: unknown;
  try {
    value = await runBody(attempt, transaction.given);
  } catch (error) {
    if (isA(error, Left) && attempt.body !== undefined) letGo(transaction, attempt.body);
    else {
      const gone = isLost(error) && (await transaction.isGone?.()) === true;
      attempt.connected = (await rolledBack(transaction)) && !gone;
    }
    if (isConflict(error)) return done(attempt, "conflict", EMPTY);
    throw error;
  }
  try {
    const output = step.encodeOutput(value);
    const [sql, params] = call(scope.execution, OP_TX_GUARD, [scope.execution.id, ...at, output, source.style]);
    let word = await guarded(transaction, String(sql), params as (string | null)[]);
    if (word === "ok") word = await committed(transaction);
    else await transaction.rollback();
    return done(attempt, word, output, value);
  } catch (error) {
    await quietly(() => transaction.rollback());
    if (isConflict(error)) return done(attempt, "conflict", EMPTY);
    throw error;
  } finally {
    await quietly(() => transaction.close());
  }
}

/** False where the connection is gone. */
async function rolledBack(transaction: OpenTransaction<unknown>): Promise<boolean> {
  const rolled = await quietly(() => transaction.rollback());
  await quietly(() => transaction.close());
  return rolled;
}

/** Fails on PostgreSQL, with a text that says why to whoever reads its log. */
const REFUSE = "select cast('everstep: this transaction is not waited for any longer' as integer)";

/**
 * Ends a transaction whose function goes on, waited for by nobody here. Most drivers would run what the function still sends on the connection after the
 * ROLLBACK, where each statement stands for itself, or inside the next one's transaction. So the ROLLBACK comes behind the function. What fails meanwhile is the
 * transaction: that gives its locks back, for the next attempt may want the same rows, and refuses all the function still sends.
 */
function letGo(transaction: OpenTransaction<unknown>, body: Promise<unknown>): void {
  const { abandon } = transaction;
  if (abandon !== undefined) {
    void quietly(() => abandon.call(transaction)).then(() => quietly(() => transaction.close()));
    return;
  }
  const refusing = quietly(async () => {
    await transaction.guard(REFUSE, []);
  });
  const end = async (): Promise<void> => {
    await refusing;
    await rolledBack(transaction);
  };
  body.then(end, end);
}

/** Final: where the function has committed, its rows stand, and another attempt would store them again. */
class EndedByItself extends TransactionFailed {}

async function guarded(transaction: OpenTransaction<unknown>, sql: string, params: (string | null)[]): Promise<string> {
  try {
    return String(await transaction.guard(sql, params));
  } catch (error) {
    if (knowsNoEngine(error)) return "other_database";
    throw isA(error, TransactionFailed) ? new EndedByItself(error.message) : error;
  }
}

async function committed(transaction: OpenTransaction<unknown>): Promise<string> {
  try {
    await transaction.commit();
  } catch (error) {
    if (isConflict(error) || isRefusal(error)) throw error;
    // The answer was lost: the engine asks the database which it was.
    log.warn("the answer to a COMMIT was lost", { error });
    return "unknown";
  }
  return "committed";
}

async function own(attempt: Attempt): Promise<Ended> {
  const { scope, step, at } = attempt;
  const { client, id } = scope.execution;
  const rollBack = ([number]: Frame): void => {
    client.submitQuietly(OP_TX_ROLLBACK, [Number(number)]);
  };
  const open = await opened(attempt, () => client.ask(undefined, OP_TX_OPEN, [id, at[0], at[1]]), rollBack);
  const [number] = open;
  try {
    const value = await runBody(attempt, new Transaction(scope.execution, Number(number)));
    const output = step.encodeOutput(value);
    return { sent: { fields: [], output, value }, op: OP_TX_COMMIT, values: [Number(number), id, ...at, output] };
  } catch (error) {
    rollBack(open);
    throw error;
  }
}

/** Rolling back or giving back a connection that is already gone fails; the error that matters is the first one. */
async function quietly(action: () => Promise<void> | void): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    log.debug("after a transaction", { error });
    return false;
  }
}

/** Outside a run: the plain function in a transaction of its own. */
export async function plainTransaction(step: Registered, input: unknown, strict: boolean): Promise<unknown> {
  if (strict) throw new OutsideRun(`transaction ${JSON.stringify(step.name)} was called outside a workflow, and this engine is strict`);
  const source = step.source;
  if (source === null || source === undefined) {
    throw new OutsideRun(`transaction ${JSON.stringify(step.name)} uses the engine's own connection, which exists inside a workflow`);
  }
  const transaction = await source.open();
  try {
    const running = new RunningStep(undefined, step.name, "", 0, 1, "", step.where);
    const value: unknown = await HERE.run(running, step.body as Body, transaction.given, input, new StepContext(running));
    await transaction.commit();
    return value;
  } catch (error) {
    await quietly(() => transaction.rollback());
    throw error;
  } finally {
    await quietly(() => transaction.close());
  }
}
