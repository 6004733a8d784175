/** Errors as documents (`core/docs/payload.md`, "Errors") and back. The caller sees the error rebuilt from the document, the first time too. */

import { types } from "node:util";
import { decode, encode } from "./codec.js";
import { EverstepError } from "./error_base.js";
import { PACKAGE_FOLDER } from "./native.js";
import { AlreadyRegistered, BY_CODE, ConfigInvalid, IdInvalid, InternalError, RunCancelled, RunFailed, StepError } from "./errors_gen.js";

const MAX_TYPE = 255;
const MAX_MESSAGE = 8 * 1024;
const MAX_STACK = 16 * 1024;
const MAX_CAUSES = 8;

const NODES_OWN = /\bnode:(?:internal|async_hooks)\b/;

/** A class of errors, whatever its constructor takes. */
export type ErrorClass<E extends Error = Error> = abstract new (...args: never[]) => E;

/** The run was asked to cancel. Let it pass, or clean up inside `ctx.shielded` and throw it again. */
export class Cancelled extends EverstepError {
  static override readonly code: string = "run_cancelled";
  static override readonly type: string = "Cancelled";

  constructor(
    readonly by: string,
    readonly why: string,
  ) {
    super(`cancelled${by === "" ? "" : ` by ${by}`}${why === "" ? "" : `: ${why}`}`);
  }
}

/** An answer `[code, message]` of the engine. */
export function errorOf(code: string, message: string): EverstepError {
  const kind = BY_CODE.get(code);
  return kind === undefined ? new InternalError(`${code}: ${message}`, { errorCode: code }) : new kind(message);
}

/** What the native part threw, which carries the engine's code. Its errors are of the realm it was loaded in, which under Jest is not this one. */
export function nativeError(error: unknown): unknown {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return types.isNativeError(error) && typeof code === "string" && BY_CODE.has(code) ? errorOf(code, String(message)) : error;
}

/** How a declared error becomes its recorded fields and back, where its own enumerable properties are not enough. */
export interface ErrorForm<E extends Error> {
  /** The fields to record. */
  details(error: E): Record<string, unknown>;
  /** The error of recorded fields. */
  rebuild(message: string, details: Record<string, unknown>): E;
}

const OWN = new Set(["name", "message", "stack", "cause"]);

/** The error types of one application, by name and by class. */
export class DeclaredErrors {
  private readonly byCode = new Map<string, { kind: ErrorClass; form: ErrorForm<Error> }>();
  private readonly byKind = new Map<ErrorClass, string>();

  add<E extends Error>(code: string, kind: ErrorClass<E>, form: ErrorForm<E> | undefined): void {
    if (typeof kind !== "function" || !(kind.prototype instanceof Error)) throw new ConfigInvalid("app.error takes a class that extends Error");
    if (typeof code !== "string") throw new ConfigInvalid("app.error takes a code first: the name that rows carry and other languages know");
    // The rule of every name, said here: the engine sees the code only when an error of this type is recorded.
    // eslint-disable-next-line no-control-regex -- They are what is looked for.
    if (code === "" || Buffer.byteLength(code) > 255 || !code.isWellFormed() || /[\u0000-\u001f\u007f-\u009f]/.test(code)) {
      throw new IdInvalid("the code of an error must be 1 to 255 bytes of UTF-8 without control characters");
    }
    const known = this.byCode.get(code);
    if ((known !== undefined && known.kind !== kind) || BY_CODE.has(code)) {
      throw new AlreadyRegistered(`the error code ${JSON.stringify(code)} is taken by ${known === undefined ? "the engine" : known.kind.name}`);
    }
    this.byCode.set(code, { kind, form: (form as ErrorForm<Error> | undefined) ?? fieldsOf(kind) });
    this.byKind.set(kind, code);
  }

  /** The nearest declared class: a subclass that is not declared itself comes back as its declared base. */
  of(error: Error): { code: string; form: ErrorForm<Error> } | undefined {
    for (let kind: unknown = error.constructor; typeof kind === "function"; kind = Object.getPrototypeOf(kind)) {
      const code = this.byKind.get(kind as ErrorClass);
      const known = code === undefined ? undefined : this.byCode.get(code);
      if (code !== undefined && known !== undefined) return { code, form: known.form };
    }
    return undefined;
  }

  named(code: string | null): ErrorForm<Error> | undefined {
    return code === null ? undefined : this.byCode.get(code)?.form;
  }
}

/** The error's own enumerable properties that hold something. Its constructor is not called again: nobody can know what it takes. */
function fieldsOf(kind: ErrorClass): ErrorForm<Error> {
  return {
    details: (error) => Object.fromEntries(Object.entries(error).filter(([key, value]) => !OWN.has(key) && value !== undefined)),
    rebuild: (message, details) => {
      const error = Reflect.construct(Error, message === "" ? [] : [message], kind) as Error;
      for (const [key, value] of Object.entries(details)) if (!OWN.has(key)) Object.defineProperty(error, key, { value, enumerable: true, configurable: true, writable: true });
      if (!("name" in kind.prototype) || error.name === "Error") Object.defineProperty(error, "name", { value: kind.name, configurable: true, writable: true });
      return error;
    },
  };
}

interface Document {
  type: string;
  code: string | null;
  message: string;
  stack: string | null;
  cause: Document | null;
  details: unknown;
  retryable: boolean;
}

/** One error document. */
export class Failure {
  private constructor(private readonly document: Document) {}

  static of(error: unknown, declared: DeclaredErrors, retryable = true): Failure {
    return new Failure(documentOf(error, declared, retryable, 0));
  }

  static read(data: Uint8Array | null): Failure {
    return new Failure(documentFrom(data === null ? {} : decode(data), 0));
  }

  get type(): string {
    return this.document.type;
  }

  get message(): string {
    return this.document.message;
  }

  get code(): string | null {
    return this.document.code;
  }

  encode(): string {
    try {
      return encode(this.document);
    } catch (error) {
      // The details cannot be stored; the error itself must be, or the failure would be lost.
      const { type, code, message, retryable } = this.document;
      return encode({ ...bare(printable(type), printable(`${message} (${problemOf(error)})`), retryable), code: code === null ? null : printable(code) });
    }
  }

  /** The error a workflow sees for a failed step. */
  exception(declared: DeclaredErrors): Error {
    return exceptionOf(this.document, declared);
  }

  /** The error a caller of `result()` sees: `RunFailed` with the run's own error as its cause. */
  ofRun(run: string, declared: DeclaredErrors): Error {
    const { code, type, message, details, stack } = this.document;
    if (code === RunCancelled.code) return new RunCancelled(message, { run });
    const cause = this.exception(declared);
    return new RunFailed(message === "" ? type : `${type}: ${message}`, { run, cause, details, remoteStack: stack });
  }
}

/** `instanceof` for what was thrown: a proxy may throw when it is asked. */
export function isA<E extends Error>(error: unknown, kind: ErrorClass<E>): error is E {
  try {
    return error instanceof kind;
  } catch {
    return false;
  }
}

/** Whatever was thrown: it must be recorded, or its run would never end. */
function documentOf(error: unknown, declared: DeclaredErrors, retryable: boolean, depth: number): Document {
  try {
    return types.isNativeError(error) || error instanceof Error ? errorDocument(error, declared, retryable, depth) : bare(typeof error, thrown(error), retryable);
  } catch {
    return bare("Error", "an error that cannot be read: its getters or its proxy throw", retryable);
  }
}

function bare(type: string, message: string, retryable: boolean): Document {
  return { type, code: null, message, stack: null, cause: null, details: null, retryable };
}

function errorDocument(error: Error, declared: DeclaredErrors, retryable: boolean, depth: number): Document {
  const cause = error.cause === undefined || depth >= MAX_CAUSES ? null : documentOf(error.cause, declared, true, depth + 1);
  const message = shortened(messageOf(error), MAX_MESSAGE);
  const stack = printable(stackOf(error).slice(-MAX_STACK));
  if (error instanceof EverstepError) {
    return { type: error.errorType ?? typeOf(error), code: error.errorCode, message, stack: error.remoteStack ?? stack, cause, details: error.details ?? null, retryable };
  }
  const document: Document = { type: typeOf(error), code: null, message, stack, cause, details: null, retryable };
  const known = declared.of(error);
  if (known === undefined) return document;
  try {
    return { ...document, code: known.code, details: known.form.details(error) };
  } catch (problem) {
    return { ...document, message: `${message} (the fields of the declared error ${JSON.stringify(known.code)} could not be read: ${problemOf(problem)})` };
  }
}

/** `throw "text"` and its like: no Error, but a failure all the same. */
function thrown(value: unknown): string {
  if (typeof value === "string") return shortened(value, MAX_MESSAGE);
  return `a thrown ${value === null ? "null" : typeof value}${["number", "bigint", "boolean"].includes(typeof value) ? `: ${String(value)}` : ""}`;
}

/** What went wrong with an error, to be told beside it: a problem that throws when it is asked must not take the error's place. */
function problemOf(problem: unknown): string {
  try {
    return messageOf(problem);
  } catch {
    return "its message cannot be read";
  }
}

/** The message, where it is a text: JavaScript lets every property of an error be anything. */
function messageOf(error: unknown): string {
  const message: unknown = (error as { message?: unknown } | null | undefined)?.message;
  if (typeof message === "string") return printable(message);
  return ["number", "bigint", "boolean"].includes(typeof message) ? String(message) : "";
}

function typeOf(error: Error): string {
  const name: unknown = error.name;
  const made = (error.constructor as { name?: unknown } | null | undefined)?.name;
  const [type] = [name, made].filter((text): text is string => typeof text === "string" && text !== "" && text !== "Error");
  // It is a column of its own, and PostgreSQL has no form for NUL.
  return shortened(type ?? "Error", MAX_TYPE).replaceAll("\0", " ");
}

/** Innermost call last, as every language writes it, without the frames of this package. */
function stackOf(error: Error): string {
  const stack: unknown = error.stack;
  const lines = (typeof stack === "string" ? stack : "").split("\n").filter((line) => /^\s+at /.test(line) && (PACKAGE_FOLDER === undefined || !line.includes(PACKAGE_FOLDER)) && !NODES_OWN.test(line));
  return lines.reverse().join("\n");
}

function printable(text: string): string {
  return text.toWellFormed();
}

/** Its beginning. Cutting may halve a character, and half a character has no UTF-8 form: the failure could not be recorded, and its run would never end. */
export function shortened(text: string, length: number): string {
  return printable(text.slice(0, length));
}

function documentFrom(value: unknown, depth: number): Document {
  if (typeof value !== "object" || value === null) return { type: "Error", code: null, message: String(value), stack: null, cause: null, details: null, retryable: true };
  const given = value as Record<string, unknown>;
  const text = (key: string): string | null => (typeof given[key] === "string" ? given[key] : null);
  return {
    type: text("type") ?? "Error",
    code: text("code"),
    message: text("message") ?? "",
    stack: text("stack"),
    cause: given["cause"] === null || given["cause"] === undefined || depth >= MAX_CAUSES ? null : documentFrom(given["cause"], depth + 1),
    details: given["details"] ?? null,
    retryable: given["retryable"] !== false,
  };
}

function exceptionOf(document: Document, declared: DeclaredErrors): Error {
  const { code, type, message, details, stack } = document;
  const cause = document.cause === null ? undefined : exceptionOf(document.cause, declared);
  const form = declared.named(code);
  let note = "";
  if (form !== undefined) {
    try {
      const error: unknown = form.rebuild(message, typeof details === "object" && details !== null ? (details as Record<string, unknown>) : {});
      if (!(error instanceof Error)) throw new ConfigInvalid("rebuild gave back no Error");
      if (cause !== undefined) error.cause = cause;
      return error;
    } catch (error) {
      note = ` (the declared error ${JSON.stringify(code)} could not be rebuilt: ${problemOf(error)})`;
    }
  }
  const kind = (code === null ? undefined : BY_CODE.get(code)) ?? StepError;
  return new kind(message + note, { errorCode: code, errorType: kind.type === type ? null : type, details, remoteStack: stack, cause });
}
