/** A function as the engine knows it: name, kind, how to call it, with which defaults. */

import { encode, decode, decodedAgain } from "./codec.js";
import { ConfigInvalid, IdInvalid, PayloadInvalid, PayloadTooLarge } from "./errors_gen.js";
import { Text, type Value } from "./frame.js";
import { type Policy, type Retry, type StartOptions, followUp, policyFields, policyRecord, retryable, text } from "./options.js";
import { type AnySchema, check } from "./schema.js";
import { milliseconds } from "./times.js";
import type { TransactionSource } from "./transaction_source.js";

// Inputs and results are the user's; their types are the surface's business, not this layer's.
export type Body = (...args: never[]) => unknown;

export interface Declaration extends Policy {
  kind: "workflow" | "step";
  name: string;
  body: Body;
  where: string;
  input?: AnySchema | undefined;
  output?: AnySchema | undefined;
  deadline?: StartOptions["deadline"];
  onFinish?: StartOptions["onFinish"];
  label?: string | undefined;
  version?: string | undefined;
  /** Of a transaction: null is the engine's own connection. */
  source?: TransactionSource<unknown> | null;
}

/** What is undefined was not said, and leaves what stands below it. */
function said(retry: Retry): Retry {
  return Object.fromEntries(Object.entries(retry).filter(([, value]) => value !== undefined));
}

/** A text of the declaration's own. Most have none, and are made for one call. */
function own(given: Declaration, what: "version" | "label"): string | undefined {
  const value = given[what] ?? undefined;
  return value === undefined ? undefined : text(value, `${given.kind} ${JSON.stringify(given.name)}: ${what}`);
}

export class Registered {
  readonly kind: "workflow" | "step";
  readonly name: string;
  readonly body: Body;
  readonly where: string;
  readonly version: string | undefined;
  readonly policy: Value[] | null;
  private readonly bounds: Policy;
  readonly source: TransactionSource<unknown> | null | undefined;
  readonly retry: Retry | undefined;
  /** JSON of `register`: the defaults of runs started here. */
  readonly registration: string;
  private readonly input: AnySchema | undefined;
  private readonly output: AnySchema | undefined;

  constructor(given: Declaration) {
    if (typeof given.name !== "string") throw new ConfigInvalid(`app.${given.kind} takes a name first: names are what rows carry, and a minifier renames functions`);
    if (given.name === "") throw new IdInvalid(`the name of a ${given.kind} must be 1 to 255 bytes of UTF-8 without control characters`);
    if (typeof given.body !== "function") throw new ConfigInvalid(`app.${given.kind}(${JSON.stringify(given.name)}) takes a function`);
    this.kind = given.kind;
    this.name = given.name;
    this.body = given.body;
    this.where = given.where;
    this.version = own(given, "version");
    this.source = given.source;
    this.retry = given.retry;
    this.bounds = { retry: given.retry, timeout: given.timeout, atMostOnce: given.atMostOnce };
    this.policy = policyRecord(this.bounds);
    this.input = given.input;
    this.output = given.output;
    const deadline = given.deadline === undefined ? undefined : milliseconds(given.deadline, "deadline");
    this.registration = JSON.stringify({ retry: policyFields(this.policy), deadline_ms: deadline, on_finish: followUp(given.onFinish), label: own(given, "label") });
  }

  /** The same function, with what one call says about attempts laid over what the declaration says. */
  withPolicy(retry: Retry | undefined, timeout: Policy["timeout"]): this {
    if (retry === undefined && timeout === undefined) return this;
    if (retry !== undefined) policyRecord({ retry });
    const bounds: Policy = { ...this.bounds, ...(timeout !== undefined && { timeout }), ...(retry !== undefined && { retry: { ...this.retry, ...said(retry) } }) };
    const own = { bounds, retry: bounds.retry, policy: policyRecord(bounds) };
    return Object.assign(Object.create(Registered.prototype) as Registered, this, own);
  }

  get timeoutMs(): number | undefined {
    return typeof this.policy?.[5] === "number" ? this.policy[5] : undefined;
  }

  get asksInput(): boolean {
    return this.input !== undefined;
  }

  get isTransaction(): boolean {
    return this.source !== undefined;
  }

  /** The wire input; null where there is none. The schema sees it on both ends: here what the caller gives, there what was stored. */
  encodeInput(value: unknown): Text | null {
    if (this.input !== undefined) check(this.input, value, `input of ${this.name}`);
    return value === undefined ? null : this.encoded(value, "input");
  }

  decodeInput(data: Uint8Array | null): unknown {
    const value = data === null ? undefined : this.decoded(data, "input");
    return this.input === undefined ? value : check(this.input, value, `input of ${this.name}`);
  }

  /** What a step's function gets: with a schema what that gives back of the recorded value, as a job does; without one the caller's own. */
  inputOf(value: unknown, wire: Text | null): unknown {
    return this.input === undefined ? value : this.decodeInput(wire === null ? null : Buffer.from(wire.json));
  }

  encodeOutput(value: unknown): Text {
    if (this.output !== undefined) check(this.output, value, `result of ${this.name}`);
    return this.encoded(value, "result");
  }

  decodeOutput(data: Uint8Array | null): unknown {
    return this.seen(data === null ? null : this.decoded(data, "result"));
  }

  /** What the caller sees of a value just encoded: as decoded. */
  outputAgain(value: unknown, text: Text): unknown {
    return this.seen(decodedAgain(value, text.json));
  }

  /** What a caller outside a run sees of a result: the function's own, or what the schema gives back of it as it would be recorded. */
  plainOutput(value: unknown): unknown {
    return this.output === undefined ? value : this.outputAgain(value, this.encodeOutput(value));
  }

  private seen(value: unknown): unknown {
    if (this.output === undefined) return value;
    const what = `result of ${this.name}`;
    try {
      return check(this.output, value, what);
    } catch (error) {
      // JSON has one word for nothing: where the schema knows no null, what was recorded was undefined, and the schema has passed it.
      if (value !== null) throw error;
      try {
        return check(this.output, undefined, what);
      } catch {
        throw error;
      }
    }
  }

  private encoded(value: unknown, what: string): Text {
    try {
      return new Text(encode(value));
    } catch (error) {
      throw this.named(error, what);
    }
  }

  private decoded(data: Uint8Array, what: string): unknown {
    try {
      return decode(data);
    } catch (error) {
      throw this.named(error, what);
    }
  }

  private named(error: unknown, what: string): unknown {
    const of = `${what} of ${this.kind} ${JSON.stringify(this.name)}`;
    if (error instanceof PayloadInvalid) return new PayloadInvalid(`${of}: ${error.message}`, { cause: error.cause });
    return error instanceof PayloadTooLarge ? new PayloadTooLarge(`${of}: ${error.message}`) : error;
  }

  retryable(error: unknown): boolean {
    return retryable(this.retry, error);
  }
}
