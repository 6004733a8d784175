/** The payload vectors every language runs, and what is JavaScript's own. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { runInNewContext } from "node:vm";
import { decode, encode, parse } from "../lib/codec.js";
import { PayloadInvalid } from "../lib/errors_gen.js";
import { CalendarDate, Decimal, LocalDateTime, Timestamp, Uuid, readTime } from "../lib/values.js";

 
const VECTORS = JSON.parse(readFileSync(join(process.env["EVERSTEP_ROOT"] ?? "..", "tests/vectors/payload.json"), "utf8"));

function build(node: any): any {
  const [[kind, value]] = Object.entries<any>(node) as [[string, any]];
  switch (kind) {
    case "null":
    case "bool":
    case "str":
      return value;
    case "int":
      return Number.isSafeInteger(Number(value)) ? Number(value) : BigInt(value);
    case "float":
      return Number(value);
    case "list":
      return value.map(build);
    case "object":
      return Object.fromEntries(value.map(([key, item]: any) => [key, build(item)]));
    case "map":
      return new Map(value.map(([key, item]: any) => [build(key), build(item)]));
    case "set":
      return new Set(value.map(build));
    case "dec":
      return new Decimal(value);
    case "bytes":
      return new Uint8Array(Buffer.from(value, "hex"));
    case "time":
      return readTime(value);
    case "date":
      return new CalendarDate(value);
    case "uuid":
      return new Uuid(value);
    case "nested": {
      let out: any[] = [];
      for (let i = 1; i < value; i++) out = [out];
      return out;
    }
    case "str_utf16":
      return String.fromCharCode(...value.map((unit: string) => parseInt(unit, 16)));
    case "object_utf16_key":
      return { [String.fromCharCode(...value.map((unit: string) => parseInt(unit, 16)))]: 1 };
    default:
      throw new Error(`unknown notation ${kind}`);
  }
}

describe("vectors", () => {
  for (const vector of VECTORS.both) {
    it(vector.name, () => {
      assert.equal(encode(build(vector.value)), vector.wire);
      assert.deepEqual(decode(Buffer.from(vector.wire)), build(vector.reads_as ?? vector.value));
      // As read, so written: a value that passes through is the same row.
      assert.equal(encode(decode(Buffer.from(vector.wire))), vector.wire);
    });
  }
  for (const vector of VECTORS.reads) {
    it(`reads ${vector.name}`, () => {
      const value = build(vector.value);
      // What JavaScript has one type for: a small number with an int tag is a bigint, as its tag says.
      assert.deepEqual(decode(Buffer.from(vector.wire)), vector.name === "small integer with int tag" ? BigInt(value) : value);
    });
  }
  for (const vector of VECTORS.refused) {
    it(`refuses ${vector.name}`, () => {
      assert.throws(() => decode(vector.wire_hex === undefined ? Buffer.from(vector.wire) : Buffer.from(vector.wire_hex, "hex")), PayloadInvalid);
    });
  }
  for (const vector of VECTORS.refused_values) {
    it(`refuses to write ${vector.name}`, () => {
      assert.throws(() => encode(build(vector.value)), PayloadInvalid);
    });
  }
});

class Point {
  constructor(
    readonly x: number,
    readonly y: number,
  ) {}
}

class Money {
  constructor(readonly cents: number) {}
  format(): string {
    return String(this.cents / 100);
  }
}

const again = (value: unknown): unknown => parse(encode(value));

describe("values of JavaScript", () => {
  it("come back as they were", () => {
    const values = [new Date("2026-01-02T03:04:05.250Z"), new Date(0), 7n, -(2n ** 70n), new Uint8Array([0, 255]), new Map([[1, "a"]]), new Map([["a", new Set([1n])]]), new Set(["b"]), NaN, -0, -Infinity];
    assert.deepEqual(again(values), values);
    assert.deepEqual(again(new Map()), new Map());
    const back = again(JSON.parse('{"__proto__":{"polluted":{"$es":"int","v":"1"}}}')) as object;
    assert.ok(Object.hasOwn(back, "__proto__"));
    assert.equal(({} as any).polluted, undefined);
  });

  it("a Buffer comes back as what it is in essence", () => {
    const back = again(Buffer.from("ab"));
    assert.equal(Object.getPrototypeOf(back), Uint8Array.prototype);
  });

  it("a time with an offset or microseconds is a Date that keeps its text", () => {
    const back = again([new Timestamp("2026-01-02T03:04:05.000001+02:00")]) as [Timestamp];
    assert.ok(back[0] instanceof Date);
    assert.equal(back[0].toISOString(), "2026-01-02T01:04:05.000Z");
    assert.equal(encode(back), '[{"$es":"time","v":"2026-01-02T03:04:05.000001+02:00"}]');
    back[0].setTime(0);
    assert.equal(encode(back), '[{"$es":"time","v":"1970-01-01T00:00:00Z"}]');
    assert.ok(readTime("2026-01-02T03:04:05") instanceof LocalDateTime);
  });

  it("classes that are only fields come back as plain objects", () => {
    assert.deepEqual(again(new Point(1, 2)), { x: 1, y: 2 });
    assert.deepEqual(again(Object.assign(Object.create(null), { a: 1 })), { a: 1 });
  });

  it("undefined at the top is null", () => {
    assert.equal(encode(undefined), "null");
  });

  const cyclic: any = { inner: {} };
  cyclic.inner.again = cyclic;
  const refused: [string, unknown, RegExp][] = [
    ["undefined in an object", { a: { b: undefined } }, /undefined has no form here.*\(at \.a\.b\)/],
    ["undefined in an array", [1, undefined], /\(at \[1\]\)/],
    ["a hole", [, 1], /\(at \[0\]\)/], // eslint-disable-line no-sparse-arrays -- That is the test.
    ["a function", { f: () => 1 }, /a function cannot be encoded \(at \.f\)/],
    ["a symbol", [Symbol("s")], /a symbol/],
    ["a symbol as key", { [Symbol("s")]: 1 }, /a symbol as a key/],
    ["a cycle", cyclic, /a cycle/],
    ["an invalid Date", new Date(NaN), /invalid Date/],
    ["a Date of the year 10000", new Date("+010000-01-01T00:00:00Z"), /outside 0000 to 9999/],
    ["a class with methods", { price: new Money(1) }, /a Money cannot be encoded.*\(at \.price\)/],
    ["an Error", new Error("x"), /an Error cannot be encoded/],
    ["a promise", { later: Promise.resolve(1) }, /await it \(at \.later\)/],
    ["a regular expression", /x/, /a RegExp/],
    ["another typed array", new Float64Array(1), /a Float64Array/],
    ["a WeakMap", new WeakMap(), /a WeakMap/],
    ["a Map that reads as an object", new Map([["$es", 1]]), /cannot be told/],
    ["equal keys of a Map", new Map([[{}, 1], [{}, 2]]), /same key twice/],
  ];
  for (const [name, value, message] of refused) {
    it(`refuses ${name}`, () => {
      assert.throws(() => encode(value), (error: unknown) => error instanceof PayloadInvalid && error.code === "payload_invalid" && message.test(error.message));
    });
  }
});

describe("values that are written as what they are", () => {
  it("those of another realm", () => {
    const far = runInNewContext("({ list: [1], date: new Date(0), map: new Map([[1, { a: 2 }]]), set: new Set([1]), bytes: new Uint8Array([1]) })");
    assert.deepEqual(parse(encode(far)), { list: [1], date: new Date(0), map: new Map([[1, { a: 2 }]]), set: new Set([1]), bytes: new Uint8Array([1]) });
    assert.throws(() => encode(runInNewContext("new (class Far { go() {} })")), { code: "payload_invalid" });
  });

  it("an array of a class of its own is its items", () => {
    class Rows extends Array<number> {
      toJSON(): string {
        return "other";
      }
    }
    assert.equal(encode(Rows.of(1, 2)), "[1,2]");
  });

  it("longer than any text", () => {
    assert.throws(() => encode("\u0001".repeat(100 * 1024 * 1024)), { code: "payload_too_large" });
  });
});
