/** What comes back of a value that was recorded. */

declare const notEncodable: unique symbol;

/** In place of what has no form in a row: a program that uses it does not compile. */
export interface NotEncodable<What extends string> {
  readonly [notEncodable]: What;
}

type AnyFunction = (...args: never[]) => unknown;
type Same = null | string | number | boolean | bigint;

type Tag = Date | Uint8Array | import("./values.js").Decimal | import("./values.js").CalendarDate | import("./values.js").LocalDateTime | import("./values.js").Uuid;

/**
 * The type of a value that was encoded, recorded and decoded: what a step or a workflow returns to its caller. Plain data is unchanged; functions, symbols and
 * methods of classes become `NotEncodable`, so that their use is an error of the compiler instead of one at night.
 * An optional field may be absent; it is never undefined, and neither is an element: undefined inside a value is refused.
 */
export type Decoded<T> = unknown extends T
  ? T
  : // eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- A function without a result.
    [T] extends [undefined | void]
    ? T
    : T extends Same
      ? T
      : T extends undefined
        ? null
        : T extends Uint8Array
          ? Uint8Array
          : T extends Tag
            ? T
            : T extends AnyFunction
              ? NotEncodable<"a function">
              : T extends symbol
                ? NotEncodable<"a symbol">
                : T extends Promise<unknown>
                  ? NotEncodable<"a promise: await it">
                  : T extends Error
                    ? NotEncodable<"an Error: throw it, or declare it with app.error">
                    : T extends ReadonlyMap<infer K, infer V>
                      ? Map<Decoded<K>, Decoded<V>>
                      : T extends ReadonlySet<infer V>
                        ? Set<Decoded<V>>
                        : T extends readonly (infer I)[]
                          ? DecodedList<T, I>
                          : T extends object
                            ? { [K in keyof T]: Decoded<Exclude<T[K], undefined>> }
                            : never;

/**
 * An array's element type stands in an array type of its own, which the compiler looks into when it must; a mapped type over an array is gone through at once, and
 * a type that contains itself (`type Json = null | string | Json[] | { [key: string]: Json }`) would have no end. Tuples are mapped: each place has its type.
 */
type DecodedList<T extends readonly unknown[], I> = I[] extends T
  ? T extends unknown[]
    ? Decoded<Exclude<I, undefined>>[]
    : readonly Decoded<Exclude<I, undefined>>[]
  : { [K in keyof T]: Decoded<Exclude<T[K], undefined>> };
