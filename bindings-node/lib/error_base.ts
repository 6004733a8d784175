/** Bases of the generated error classes, apart from them so that both files can import them. */

export interface ErrorFields {
  /** The declared name of an error this program does not declare; else the class's own code. */
  errorCode?: string | null | undefined;
  /** Type of the original error in the language that raised it. */
  errorType?: string | null | undefined;
  /** Fields of a declared error. */
  details?: unknown;
  /** Stack of the original error. */
  remoteStack?: string | null | undefined;
  /** Key of the run this is about. */
  run?: string | undefined;
  cause?: unknown;
}

/** Base of all errors of Everstep. `code` is stable; the text is not. */
export class EverstepError extends Error {
  static readonly code: string = "internal";
  static readonly type: string = "EverstepError";

  /** Stable: one of the codes of `core/errors.toml`. */
  readonly code: string;
  /** The name an error was declared under elsewhere, else `code`. */
  readonly errorCode: string;
  /** Type of the original error in the language that raised it. */
  readonly errorType: string | undefined;
  /** Fields of a declared error. */
  readonly details: unknown;
  /** Stack of the original error, which may be another process's. */
  readonly remoteStack: string | undefined;
  /** Key of the run this is about. */
  readonly run: string | undefined;

  constructor(message = "", fields: ErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    const kind = new.target;
    this.code = kind.code;
    this.errorCode = fields.errorCode ?? kind.code;
    this.errorType = fields.errorType ?? undefined;
    this.details = fields.details ?? undefined;
    this.remoteStack = fields.remoteStack ?? undefined;
    this.run = fields.run;
    Object.defineProperty(this, "name", { value: kind.type, configurable: true, writable: true });
  }
}

/** A person must act: configuration, credentials, schema. */
export class SetupError extends EverstepError {
  static override readonly type: string = "SetupError";
}

/** The program is wrong. */
export class UsageError extends EverstepError {
  static override readonly type: string = "UsageError";
}

/** About one run. */
export class RunError extends EverstepError {
  static override readonly type: string = "RunError";
}
