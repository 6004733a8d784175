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

export class Writer {
  bytes = Buffer.allocUnsafeSlow(64 * 1024);
  length = 0;
  // Numbers are written through it: the methods of Buffer check more and cost three times as much.
  private view = viewOf(this.bytes);

  private room(more: number): void {
    const needed = this.length + more;
    if (needed > this.bytes.length) this.replace(Math.max(needed, this.bytes.length * 2), this.length);
  }

  /** A frame of its own; a buffer that one large frame has made is given back. */
  begin(): void {
    this.length = 0;
    if (this.bytes.length > LARGEST_KEPT) this.replace(64 * 1024, 0);
  }

  private replace(size: number, kept: number): void {
    const other = Buffer.allocUnsafeSlow(size);
    this.bytes.copy(other, 0, 0, kept);
    this.bytes = other;
    this.view = viewOf(other);
  }

  values(values: readonly Value[]): void {
    for (let i = 0; i < values.length; i++) this.value(values[i]);
  }

  value(value: Value): this {
    this.room(16);
    if (value === null || value === undefined) this.bytes[this.length++] = 0;
    else this.something(value);
    return this;
  }

  private something(value: NonNullable<Value>): void {
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
        this.bytes[this.length] = 3;
        this.view.setBigInt64(this.length + 1, value, true);
        this.length += 9;
        return;
      default:
        if (value instanceof Text) this.text(6, value.json);
        else if (value instanceof Uint8Array) this.data(value);
        else {
          this.bytes[this.length] = 7;
          this.view.setUint32(this.length + 1, value.length, true);
          this.length += 5;
          this.values(value);
        }
    }
  }

  private number(value: number): void {
    const { view, length: at } = this;
    if (Number.isSafeInteger(value)) {
      const low = value >>> 0;
      this.bytes[at] = 3;
      view.setUint32(at + 1, low, true);
      view.setInt32(at + 5, (value - low) / TWO_32, true);
    } else {
      this.bytes[at] = 4;
      view.setFloat64(at + 1, value, true);
    }
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
    this.view.setUint32(start + 1, at - start - 5, true);
    this.length = at;
  }

  private data(value: Uint8Array): void {
    this.room(5 + value.length);
    this.bytes[this.length] = 6;
    this.view.setUint32(this.length + 1, value.length, true);
    this.bytes.set(value, this.length + 5);
    this.length += 5 + value.length;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const LARGEST_KEPT = 1 << 20;
const writer = new Writer();

/** A frame to write value by value, in a buffer that the next frame overwrites: between this and its use nothing else may run. */
export function frame(): Writer {
  writer.begin();
  return writer;
}

/** The frame of `values`. */
export function pack(values: readonly Value[]): Writer {
  frame().values(values);
  return writer;
}

/** Reads values one after another. `copy`: the bytes belong to a buffer that is written again. */
export class Reader {
  at = 0;
  private readonly bytes: Buffer;
  private readonly view: DataView;

  constructor(
    bytes: Uint8Array,
    private readonly copy: boolean,
  ) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = viewOf(bytes);
  }

  /** The values of the frame `[start, end)`. */
  frame(start: number, end: number): Frame {
    this.at = start;
    // Few frames are longer; pushing into an empty array would make room for 17 values in each.
    const out: Frame = [null, null, null, null];
    let count = 0;
    while (this.at < end) out[count++] = this.value();
    if (count < out.length) out.length = count;
    return out;
  }

  private value(): Read {
    const { bytes, view } = this;
    const tag = bytes[this.at++];
    switch (tag) {
      case 0:
        return null;
      case 1:
        return false;
      case 2:
        return true;
      case 3: {
        const low = view.getUint32(this.at, true);
        const high = view.getInt32(this.at + 4, true);
        this.at += 8;
        if (high === 0) return low;
        const value = high * TWO_32 + low;
        return Number.isSafeInteger(value) ? value : view.getBigInt64(this.at - 8, true);
      }
      case 4:
        this.at += 8;
        return view.getFloat64(this.at - 8, true);
      case 5: {
        const end = this.sized();
        const text = bytes.toString(undefined, this.at, end);
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
        const count = view.getUint32(this.at, true);
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
    const end = this.at + 4 + this.view.getUint32(this.at, true);
    this.at += 4;
    if (end > this.bytes.length) throw new InternalError("a frame is cut short");
    return end;
  }

  /** The events of a packed batch, one after another: `u64 token, u32 kind, u32 length, frame`. */
  events(each: (token: number, kind: number, frame: Frame) => void): void {
    const { view } = this;
    const { length } = this.bytes;
    let head = 0;
    while (head < length) {
      const token = view.getUint32(head, true) + view.getUint32(head + 4, true) * TWO_32;
      const kind = view.getUint32(head + 8, true);
      const end = head + 16 + view.getUint32(head + 12, true);
      each(token, kind, this.frame(head + 16, end));
      head = end;
    }
  }
}

/** The values of a frame that is kept. */
export function unpack(bytes: Uint8Array): Frame {
  return new Reader(bytes, false).frame(0, bytes.length);
}
