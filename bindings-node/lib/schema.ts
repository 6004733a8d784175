/** Schemas of the Standard Schema interface (zod, valibot, arktype and others), version 1. */

import { ConfigInvalid, PayloadInvalid } from "./errors_gen.js";

/** https://standardschema.dev: the part of it that is used here. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

type SchemaResult<Output> = { readonly value: Output; readonly issues?: undefined } | { readonly issues: readonly Issue[] };

interface Issue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

export type AnySchema = StandardSchema;
export type SchemaInput<S extends AnySchema> = NonNullable<S["~standard"]["types"]>["input"];
export type SchemaOutput<S extends AnySchema> = NonNullable<S["~standard"]["types"]>["output"];

export function isSchema(value: unknown): value is AnySchema {
  return (typeof value === "object" || typeof value === "function") && value !== null && "~standard" in value;
}

/** The value as the schema gives it back, or `PayloadInvalid` with every issue and its path. */
export function check(schema: AnySchema, value: unknown, what: string): unknown {
  const result = schema["~standard"].validate(value);
  // A replay hands recorded values back in the order of their record; a schema that waits for something of its own would change it.
  if (result instanceof Promise) {
    result.catch(() => undefined);
    throw new ConfigInvalid(`${what}: this schema validates asynchronously; use one that answers at once, and put the waiting part into a step`);
  }
  if (result.issues === undefined) return result.value;
  const told = result.issues.slice(0, 8).map((issue) => {
    const path = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
    return path === "" ? issue.message : `${path}: ${issue.message}`;
  });
  throw new PayloadInvalid(`${what}: ${told.join("; ")}`);
}
