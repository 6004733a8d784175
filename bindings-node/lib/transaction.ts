/** Transactional steps: the user's rows and the checkpoint commit together or not at all (`core/docs/protocol.md`, "Transactions"). */

import { CUT_SHORT, LEFT, type Outcome, answer, begin, call, droppable, left, raised, result, timedOut, unwind } from "./calls.js";
import { OutsideRun, TransactionFailed, Unavailable } from "./errors_gen.js";
import { isA } from "./failures.js";
import { Text, type Value } from "./frame.js";
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
import type { Registered } from "./registered.js";
import { HERE, RunningStep, type Scope } from "./scope.js";
import { StepContext } from "./step_context.js";
import { type OpenTransaction, type TransactionSource, isConflict, isLost, isRefusal, knowsNoEngine } from "./transaction_source.js";

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
}

export function callTransaction(scope: Scope, step: Registered, location: string, input: unknown, key: string | undefined): Promise<unknown> {
  return droppable(async () => {
    const { execution } = scope;
    const begun = begin(scope, OP_BEGIN_STEP, [KIND_TRANSACTION, step.name, location, step.encodeInput(input), key, step.policy]);
    let { verdict } = begun;
    let sent: Outcome | undefined;
    for (;;) {
      switch (verdict[0]) {
        case VERDICT_RUN: {
          execution.replaying = false;
          const [, seq, attempt, idempotencyKey] = verdict;
          const running = new RunningStep(execution, step.name, scope.branch, Number(seq), Number(attempt), String(idempotencyKey), location, scope.isShielded);
          const ended = await attemptOf({ scope, step, input, running, at: [scope.branch, running.seq, running.attempt] });
          sent = ended.sent;
          verdict = await execution.client.ask(execution, ended.op, ended.values);
          break;
        }
        case VERDICT_RECORDED:
          return result(execution, step, verdict, sent);
        case VERDICT_PENDING:
          verdict = await answer(execution, begun.token, verdict);
          break;
        default:
          unwind(execution, verdict);
      }
    }
  });
}

/** Opens, runs and ends one transaction. */
async function attemptOf(attempt: Attempt): Promise<Ended> {
  const { scope, step, running, at } = attempt;
  const { execution } = scope;
  execution.begun(running);
  let outcome: Outcome;
  try {
    return step.source === null || step.source === undefined ? await own(attempt) : await onDriver(attempt, step.source);
  } catch (error) {
    if (running.signal === undefined && (isA(error, Unavailable) || isLost(error))) return done(attempt, "conflict", EMPTY);
    if (running.signal === undefined) outcome = raised(step, error, execution, isA(error, EndedByItself));
    else outcome = running.signal === "timeout" ? timedOut(step, execution) : CUT_SHORT;
  } finally {
    execution.over(running);
  }
  return { sent: outcome, op: OP_FINISH_STEP, values: [execution.id, ...at, ...outcome.fields] };
}

const EMPTY = new Text("");

function done({ scope, at }: Attempt, word: string, output: Text, value?: unknown): Ended {
  return { sent: { fields: [], output, value }, op: OP_TX_DONE, values: [scope.execution.id, ...at, word, output === EMPTY ? null : output] };
}

/** The user's function is not waited for any longer, and may still be running. */
class Left extends Error {}

/** The user's function. A signal that says it is not waited for is an error here: the transaction must be rolled back. */
async function runBody({ step, input, running }: Attempt, given: unknown): Promise<unknown> {
  const value = await left(running, () => HERE.run(running, step.body as Body, given, input, new StepContext(running)));
  if (value === LEFT) throw new Left("the transaction is not waited for any longer");
  if (running.signal !== undefined) throw new Error(`the transaction was cut short (${running.signal})`);
  // From here on the outcome is the database's: a signal must not tear the COMMIT apart.
  running.onLeave = undefined;
  return value;
}

async function onDriver(attempt: Attempt, source: TransactionSource<unknown>): Promise<Ended> {
  const { scope, step, at } = attempt;
  const transaction = await source.open();
  try {
    const value = await runBody(attempt, transaction.given);
    const output = step.encodeOutput(value);
    const [sql, params] = call(scope.execution, OP_TX_GUARD, [scope.execution.id, ...at, output, source.style]);
    let word = await guarded(transaction, String(sql), params as (string | null)[]);
    if (word === "ok") word = await committed(transaction);
    else await transaction.rollback();
    return done(attempt, word, output, value);
  } catch (error) {
    await quietly(() => (error instanceof Left && transaction.abandon !== undefined ? transaction.abandon() : transaction.rollback()));
    if (isConflict(error)) return done(attempt, "conflict", EMPTY);
    throw error;
  } finally {
    await quietly(() => transaction.close());
  }
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
  const [number] = await client.ask(undefined, OP_TX_OPEN, [id, at[0], at[1]]);
  try {
    const value = await runBody(attempt, new Transaction(scope.execution, Number(number)));
    const output = step.encodeOutput(value);
    return { sent: { fields: [], output, value }, op: OP_TX_COMMIT, values: [Number(number), id, ...at, output] };
  } catch (error) {
    client.submitQuietly(OP_TX_ROLLBACK, [Number(number)]);
    throw error;
  }
}

/** Rolling back or giving back a connection that is already gone fails; the error that matters is the first one. */
async function quietly(action: () => Promise<void> | void): Promise<void> {
  try {
    await action();
  } catch (error) {
    log.debug("after a transaction", { error });
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
