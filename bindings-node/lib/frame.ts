/** Frames of the border (`core/docs/protocol.md`): positional lists of values, little-endian. Knows the kinds of value and no operation. */

import { IdInvalid, InternalError } from "./errors_gen.js";

/** JSON text that crosses as bytes: written into the frame directly, without a buffer in between. */
export class Text {
  constructor(readonly json: string) {}
}

export type Value = null | undefined | boolean | number | bigint | string | Uint8Array | Text | readonly Value[];
/** What comes out of a frame. Whole numbers beyond 2^53 are bigint. */
export type Read = null | boolean | number | bigint | string | Uint8Array | Read[];
export type Frame = Read[];

const SHORT = 48;
const TWO_32 = 4294967296;

class Writer {
  bytes = Buffer.allocUnsafeSlow(64 * 1024);
  length = 0;

  private room(more: number): void {
    const needed = this.length + more;
    if (needed > this.bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2));
      this.bytes.copy(larger, 0, 0, this.length);
      this.bytes = larger;
    }
  }

  values(values: readonly Value[]): void {
    for (const value of values) this.value(value);
  }

  private value(value: Value): void {
    this.room(16);
    if (value === null || value === undefined) {
      this.bytes[this.length++] = 0;
      return;
    }
    switch (typeof value) {
      case "boolean":
        this.bytes[this.length++] = value ? 2 : 1;
        return;
      case "number":
        this.number(value);
        return;
      case "string":
        this.text(5, value);
        return;
      case "bigint":
        if (BigInt.asIntN(64, value) !== value) throw new InternalError("a whole number of the border has 64 bits");
        this.bytes[this.length++] = 3;
        this.length = this.bytes.writeBigInt64LE(value, this.length);
        return;
      default:
        if (value instanceof Text) this.text(6, value.json);
        else if (value instanceof Uint8Array) this.data(value);
        else {
          this.bytes[this.length] = 7;
          this.length = this.bytes.writeUInt32LE(value.length, this.length + 1);
          this.values(value);
        }
    }
  }

  private number(value: number): void {
    const { bytes, length: at } = this;
    if (!Number.isSafeInteger(value)) {
      bytes[at] = 4;
      this.length = bytes.writeDoubleLE(value, at + 1);
      return;
    }
    bytes[at] = 3;
    const low = value >>> 0;
    const high = (value - low) / TWO_32;
    bytes[at + 1] = low;
    bytes[at + 2] = low >>> 8;
    bytes[at + 3] = low >>> 16;
    bytes[at + 4] = low >>> 24;
    bytes[at + 5] = high;
    bytes[at + 6] = high >>> 8;
    bytes[at + 7] = high >>> 16;
    bytes[at + 8] = high >>> 24;
    this.length = at + 9;
  }

  private text(tag: number, value: string): void {
    const count = value.length;
    this.room(5 + count * 3);
    const { bytes, length: start } = this;
    let at = start + 5;
    let i = 0;
    if (count <= SHORT) {
      // Most texts are short and ASCII; a call into C++ costs more than this loop.
      for (; i < count; i++) {
        const unit = value.charCodeAt(i);
        if (unit > 127) break;
        bytes[at++] = unit;
      }
    }
    if (i < count) {
      if (!value.isWellFormed()) throw new IdInvalid("a text holds a lone surrogate, which has no UTF-8 form");
      at = start + 5 + bytes.write(value, start + 5, "utf8");
    }
    bytes[start] = tag;
    bytes.writeUInt32LE(at - start - 5, start + 1);
    this.length = at;
  }

  private data(value: Uint8Array): void {
    this.room(5 + value.length);
    this.bytes[this.length] = 6;
    const at = this.bytes.writeUInt32LE(value.length, this.length + 1);
    this.bytes.set(value, at);
    this.length = at + value.length;
  }
}

const writer = new Writer();
const LARGEST_KEPT = 1 << 20;

/** The frame of `values`, in a buffer that the next frame overwrites. */
export function pack(values: readonly Value[]): Writer {
  if (writer.bytes.length > LARGEST_KEPT) writer.bytes = Buffer.allocUnsafeSlow(64 * 1024);
  writer.length = 0;
  writer.values(values);
  return writer;
}

/** Reads values one after another. `copy`: the bytes belong to a buffer that is written again. */
class Reader {
  at = 0;
  constructor(
    private readonly bytes: Buffer,
    private readonly copy: boolean,
  ) {}

  value(): Read {
    const { bytes } = this;
    const tag = bytes[this.at++];
    switch (tag) {
      case 0:
        return null;
      case 1:
        return false;
      case 2:
        return true;
      case 3: {
        const low = bytes.readUInt32LE(this.at);
        const high = bytes.readInt32LE(this.at + 4);
        this.at += 8;
        const value = high * TWO_32 + low;
        return Number.isSafeInteger(value) ? value : bytes.readBigInt64LE(this.at - 8);
      }
      case 4:
        this.at += 8;
        return bytes.readDoubleLE(this.at - 8);
      case 5: {
        const end = this.sized();
        const text = bytes.toString("utf8", this.at, end);
        this.at = end;
        return text;
      }
      case 6: {
        const end = this.sized();
        const part = this.copy ? new Uint8Array(bytes.subarray(this.at, end)) : bytes.subarray(this.at, end);
        this.at = end;
        return part;
      }
      case 7: {
        const count = bytes.readUInt32LE(this.at);
        this.at += 4;
        const out: Read[] = [];
        for (let i = 0; i < count; i++) out.push(this.value());
        return out;
      }
      default:
        throw new InternalError(`a frame holds the unknown tag ${String(tag)}`);
    }
  }

  private sized(): number {
    const end = this.at + 4 + this.bytes.readUInt32LE(this.at);
    this.at += 4;
    if (end > this.bytes.length) throw new InternalError("a frame is cut short");
    return end;
  }
}

/** The values of the frame `bytes[start..end]`. */
export function unpack(bytes: Uint8Array, start: number, end: number, copy: boolean): Frame {
  const reader = new Reader(Buffer.from(bytes.buffer, bytes.byteOffset, end), copy);
  reader.at = start;
  const out: Frame = [];
  while (reader.at < end) out.push(reader.value());
  return out;
}

/** The events of a packed batch, one after another: `u64 token, u32 kind, u32 length, frame`. */
export function unpackEvents(batch: Uint8Array, each: (token: number, kind: number, frame: Frame) => void): void {
  const bytes = Buffer.from(batch.buffer, batch.byteOffset, batch.length);
  const reader = new Reader(bytes, false);
  while (reader.at < bytes.length) {
    const head = reader.at;
    const token = bytes.readUInt32LE(head) + bytes.readUInt32LE(head + 4) * TWO_32;
    const kind = bytes.readUInt32LE(head + 8);
    const end = head + 16 + bytes.readUInt32LE(head + 12);
    reader.at = head + 16;
    const frame: Frame = [];
    while (reader.at < end) frame.push(reader.value());
    each(token, kind, frame);
  }
}
