/** Codec 1 of `core/docs/payload.md`: JSON, with tags for what JSON lacks. The vectors of `tests/vectors/payload.json` hold for every language. */

import { types } from "node:util";
import { PayloadInvalid, PayloadTooLarge } from "./errors_gen.js";
import { CalendarDate, Decimal, LocalDateTime, Uuid, readTime, writeTime } from "./values.js";

const MAX_DEPTH = 128;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** What JSON escapes, and half characters. */
// eslint-disable-next-line no-control-regex
const NOT_PLAIN = /["\\\u0000-\u001f\ud800-\udfff]/;
const PLAIN_LENGTH = 512;

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

function tagged(tag: string, v: Json): Json {
  return { $es: tag, v };
}

function refuse(what: string): never {
  throw new PayloadInvalid(what);
}

/** `value` as JSON.stringify writes it right: itself where nothing in it needs a tag. */
function lower(value: unknown, depth: number): Json {
  switch (typeof value) {
    case "string":
      if (!value.isWellFormed()) refuse("a text holds a lone surrogate, which has no UTF-8 form");
      return value;
    case "boolean":
      return value;
    case "number":
      if (Number.isFinite(value)) return value === 0 && 1 / value < 0 ? tagged("float", "-0") : value;
      return tagged("float", String(value));
    case "bigint":
      return tagged("int", value.toString());
    case "undefined":
      return refuse("undefined has no form here: leave the key out, or use null");
    case "function":
      return refuse("a function cannot be encoded");
    case "symbol":
      return refuse("a symbol cannot be encoded");
    default:
      return value === null ? null : lowerObject(value as object, depth);
  }
}

function lowerObject(value: object, depth: number): Json {
  if (depth >= MAX_DEPTH) refuse(`nested deeper than ${String(MAX_DEPTH)} levels, or a cycle`);
  if (Array.isArray(value)) return lowerArray(value, depth);
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === Object.prototype || prototype === null) return lowerRecord(value as Record<string, unknown>, depth);
  // By what they are, not by `instanceof`: a value of another realm (Jest's globals, `node:vm`) is the same value.
  if (types.isDate(value)) return tagged("time", writeTime(value));
  if (types.isUint8Array(value)) return tagged("bytes", Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64"));
  if (types.isMap(value)) return lowerMap(value, depth);
  if (types.isSet(value)) return lowerSet(value, depth);
  if (value instanceof Decimal) return tagged("dec", value.text);
  if (value instanceof CalendarDate) return tagged("date", value.text);
  if (value instanceof LocalDateTime) return tagged("time", value.text);
  if (value instanceof Uuid) return tagged("uuid", value.text);
  if (!isObjectOfAnotherRealm(prototype as object)) checkInstance(value);
  return lowerRecord(value as Record<string, unknown>, depth);
}

function lowerArray(value: readonly unknown[], depth: number): Json {
  let out: Json[] | undefined;
  for (let i = 0; i < value.length; i++) {
    const item = value[i];
    const lowered = lower(item, depth + 1);
    if (out !== undefined) out.push(lowered);
    else if (lowered !== item) {
      out = value.slice(0, i) as Json[];
      out.push(lowered);
    }
  }
  // An array of a class of its own may say something else of itself.
  return out ?? ((typeof (value as { toJSON?: unknown }).toJSON === "function" ? Array.from(value) : value) as Json[]);
}

function lowerRecord(value: Record<string, unknown>, depth: number): Json {
  if (Object.getOwnPropertySymbols(value).length > 0) refuse("a symbol as a key cannot be encoded");
  const keys = Object.keys(value);
  let out: { [key: string]: Json } | undefined;
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i] as string;
    if (key === "$es") return lowerPairs(Object.entries(value), depth);
    if (!key.isWellFormed()) refuse("a key holds a lone surrogate, which has no UTF-8 form");
    const item = value[key];
    const lowered = lower(item, depth + 1);
    if (out === undefined && lowered !== item) {
      out = {};
      for (let before = 0; before < i; before++) put(out, keys[before] as string, value[keys[before] as string]);
    }
    if (out !== undefined) put(out, key, lowered);
  }
  if (typeof value["toJSON"] === "function") refuse("an object with a toJSON of its own cannot be encoded: return what it would give");
  return out ?? (value as Json);
}

/** `__proto__` as a key of its own, not as the prototype. */
function put(target: { [key: string]: unknown }, key: string, value: unknown): void {
  if (key === "__proto__") Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
  else target[key] = value;
}

/** The tag is an object, the list of pairs and each pair are lists: three levels more. */
function lowerPairs(pairs: Iterable<[unknown, unknown]>, depth: number): Json {
  return tagged("map", Array.from(pairs, ([key, item]) => [lower(key, depth + 3), lower(item, depth + 3)]));
}

function lowerMap(value: Map<unknown, unknown>, depth: number): Json {
  // It would be read back as the object it is written like.
  if (value.has("$es") && [...value.keys()].every((key) => typeof key === "string")) refuse("a Map of texts with the key $es cannot be told from an object");
  const seen = new Set<string>();
  for (const key of value.keys()) {
    const text = JSON.stringify(lower(key, depth + 3));
    if (seen.has(text)) refuse("a Map holds the same key twice, as far as values go");
    seen.add(text);
  }
  return lowerPairs(value, depth);
}

function lowerSet(value: Set<unknown>, depth: number): Json {
  const written = Array.from(value, (item) => {
    const lowered = lower(item, depth + 2);
    return { bytes: Buffer.from(JSON.stringify(lowered)), lowered };
  });
  written.sort((a, b) => Buffer.compare(a.bytes, b.bytes));
  return tagged(
    "set",
    written.map((item) => item.lowered),
  );
}

/** Each realm has an `Object.prototype` of its own. */
function isObjectOfAnotherRealm(prototype: object): boolean {
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, "isPrototypeOf");
}

const dataOnly = new WeakMap<object, boolean>();

/** An instance of a class is written when the class is nothing but its fields: what comes back has the fields and no methods. */
function checkInstance(value: object): void {
  const prototype = Object.getPrototypeOf(value) as object;
  let plain = dataOnly.get(prototype);
  if (plain === undefined) {
    plain = !(value instanceof Error || value instanceof Promise || ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof RegExp);
    for (let level: object | null = prototype; plain && level !== null && level !== Object.prototype; level = Object.getPrototypeOf(level) as object | null) {
      plain = Reflect.ownKeys(level).every((key) => key === "constructor");
    }
    dataOnly.set(prototype, plain);
  }
  if (plain) return;
  const name = kindOf(value);
  if (value instanceof Promise) refuse("a promise cannot be encoded: await it");
  refuse(`${/^[aeio]/i.test(name) ? "an" : "a"} ${name} cannot be encoded: it would come back without its methods; return a plain object`);
}

function kindOf(value: object): string {
  const made = (value as { constructor?: unknown }).constructor;
  return typeof made === "function" && made.name !== "" ? made.name : "object with a prototype of its own";
}

/** The JSON text of `value`; the top-level `undefined` of a function without a result is null. */
export function encode(value: unknown): string {
  if (value === undefined) return "null";
  // JSON.stringify makes a text in pieces; most need no more than the quotes.
  if (typeof value === "string" && value.length <= PLAIN_LENGTH && !NOT_PLAIN.test(value)) return `"${value}"`;
  let lowered: Json;
  try {
    lowered = lower(value, 0);
  } catch (error) {
    if (error instanceof PayloadInvalid) throw new PayloadInvalid(`${error.message}${where(value)}`);
    throw unreadable(error, value);
  }
  try {
    return JSON.stringify(lowered);
  } catch (error) {
    // The longest text there can be; the engine's own limit is far below it.
    if (error instanceof RangeError) throw new PayloadTooLarge("the value is longer than any text can be. Keep large data elsewhere and pass a reference.");
    throw unreadable(error, value);
  }
}

/** A getter or a proxy threw, or gave another value the second time. */
function unreadable(cause: unknown, value: unknown): PayloadInvalid {
  return new PayloadInvalid(`the value cannot be read: one of its getters, or a proxy, threw${where(value)}`, { cause });
}

/** The path of the innermost value that fails alone, for the message. Slow, and only on the way to an error. */
function where(value: unknown): string {
  let path = "";
  let inner: Part | undefined;
  for (let depth = 0; depth < 16 && (inner = failing(value)) !== undefined; depth++) {
    path += inner.path;
    value = inner.item;
  }
  return path === "" ? "" : ` (at ${path})`;
}

interface Part {
  path: string;
  /** Undefined where reading it fails. */
  item?: unknown;
}

function failing(value: unknown): Part | undefined {
  try {
    for (const [path, read] of parts(value)) {
      let part: Part = { path };
      try {
        part = { path, item: read() };
        lower(part.item, 0);
      } catch {
        return part;
      }
    }
  } catch {
    // A proxy that does not even tell its keys: the path ends here.
  }
  return undefined;
}

type Parts = readonly (readonly [string, () => unknown])[];

function parts(value: unknown): Parts {
  if (Array.isArray(value)) return Array.from(value, (item: unknown, index) => [`[${String(index)}]`, () => item]);
  if (value instanceof Map) return Array.from(value as Map<unknown, unknown>, ([key, item]) => [`.get(${typeof key === "string" ? JSON.stringify(key) : typeof key})`, () => item]);
  if (value instanceof Set) return Array.from(value as Set<unknown>, (item) => [" in a Set", () => item]);
  if (typeof value !== "object" || value === null || value instanceof Promise) return [];
  return Object.keys(value).map((key) => [/^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`, () => (value as Record<string, unknown>)[key]]);
}

/** Whether a value that was just encoded equals what is read back: its text is not needed for that. */
export function isItsOwnDecoding(value: unknown): boolean {
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean" || value === null;
}

/** The value a reader sees, of a value just encoded. */
export function decodedAgain(value: unknown, text: string): unknown {
  if (value === undefined) return null;
  return isItsOwnDecoding(value) ? value : parse(text);
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The value of stored bytes. */
export function decode(data: Uint8Array): unknown {
  let text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8");
  if (text.includes("\ufffd")) {
    try {
      text = strict.decode(data);
    } catch {
      refuse("the stored value is not UTF-8");
    }
  }
  return parse(text);
}

export function parse(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    // What the parser says quotes the text: a payload belongs into no message.
    refuse(`the stored value cannot be read: ${error instanceof RangeError ? "nested too deep" : "it is no JSON"}`);
  }
  // Tags, and what only a look at each value finds: lone surrogates written as escapes, too many levels.
  return text.includes('"$es"') || text.includes("\\u") || (text.length > 2 * MAX_DEPTH && text.split(/[[{]/, MAX_DEPTH + 2).length > MAX_DEPTH + 1) ? raise(value, 0) : value;
}

function raise(value: unknown, depth: number): unknown {
  if (typeof value === "string") {
    if (!value.isWellFormed()) refuse("a text holds a lone surrogate");
    return value;
  }
  if (typeof value !== "object" || value === null) return value;
  if (depth >= MAX_DEPTH) refuse(`nested deeper than ${String(MAX_DEPTH)} levels`);
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) value[i] = raise(value[i], depth + 1);
    return value;
  }
  const record = value as { [key: string]: unknown };
  if (Object.hasOwn(record, "$es")) return readTag(record, depth);
  for (const key of Object.keys(record)) {
    if (!key.isWellFormed()) refuse("a key holds a lone surrogate");
    put(record, key, raise(record[key], depth + 1));
  }
  return record;
}

function readTag(record: { [key: string]: unknown }, depth: number): unknown {
  const tag = record["$es"];
  const v = record["v"];
  if (Object.keys(record).length !== 2 || !Object.hasOwn(record, "v")) refuse("an object with a key $es has exactly $es and v");
  if (tag === "set" || tag === "map") {
    if (!Array.isArray(v)) return refuse(`malformed value of tag "${tag}"`);
    return tag === "set" ? new Set(v.map((item) => raise(item, depth + 2))) : readMap(v, depth);
  }
  if (typeof v !== "string") return refuse(`the value of tag ${JSON.stringify(tag)} must be a string`);
  switch (tag) {
    case "int":
      if (/^-?\d+$/.test(v)) return BigInt(v);
      break;
    case "float": {
      const special = new Map([["NaN", NaN], ["Infinity", Infinity], ["-Infinity", -Infinity], ["-0", -0]]).get(v);
      if (special !== undefined) return special;
      break;
    }
    case "dec":
      return new Decimal(v);
    case "bytes":
      if (BASE64.test(v)) return new Uint8Array(Buffer.from(v, "base64"));
      break;
    case "time":
      return readTime(v);
    case "date":
      return new CalendarDate(v);
    case "uuid":
      return new Uuid(v);
    default:
      return refuse(`unknown tag ${JSON.stringify(tag)}`);
  }
  return refuse(`malformed value of tag ${JSON.stringify(tag)}`);
}

function readMap(pairs: unknown[], depth: number): unknown {
  const entries = pairs.map((pair): [unknown, unknown] => {
    if (!Array.isArray(pair) || pair.length !== 2) return refuse('malformed value of tag "map"');
    return [raise(pair[0], depth + 3), raise(pair[1], depth + 3)];
  });
  if (!entries.some(([key]) => key === "$es") || entries.some(([key]) => typeof key !== "string")) return new Map(entries);
  const out: { [key: string]: unknown } = {};
  for (const [key, item] of entries) put(out, key as string, item);
  return out;
}
