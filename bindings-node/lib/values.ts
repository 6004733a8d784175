/** Values of the payload format that JavaScript has no type for. They cross unchanged: what another language wrote is written again as it was. */

import { PayloadInvalid } from "./errors_gen.js";

const DECIMAL = /^-?\d+(\.\d+)?(E[+-]?\d+)?$/;
const DATE = /^(\d{4})-(\d\d)-(\d\d)$/;
const TIME = /^(\d{4}-\d\d-\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

function checkDate(text: string): void {
  const match = DATE.exec(text);
  const [year, month, day] = match === null ? [0, 0, 0] : [Number(match[1]), Number(match[2]), Number(match[3])];
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  if (match === null || date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) throw new PayloadInvalid(`not a date: ${JSON.stringify(text)}`);
}

/** A decimal number, scale kept: `12.50` is not `12.5`. Calculate with the library of your choice; this carries the text. */
export class Decimal {
  constructor(readonly text: string) {
    if (!DECIMAL.test(text)) throw new PayloadInvalid(`not a decimal: ${JSON.stringify(text)}`);
    Object.freeze(this);
  }

  toString(): string {
    return this.text;
  }

  toJSON(): string {
    return this.text;
  }
}

/** A date without a time: `2026-02-28`. */
export class CalendarDate {
  constructor(readonly text: string) {
    checkDate(text);
    Object.freeze(this);
  }

  toString(): string {
    return this.text;
  }

  toJSON(): string {
    return this.text;
  }
}

/** A date and time without an offset: `2026-01-02T03:04:05.1`. It names no instant. */
export class LocalDateTime {
  constructor(readonly text: string) {
    if (parseTime(text).offset !== undefined) throw new PayloadInvalid(`a local date and time has no offset: ${JSON.stringify(text)}`);
    Object.freeze(this);
  }

  toString(): string {
    return this.text;
  }

  toJSON(): string {
    return this.text;
  }
}

/** A uuid of the payload format. A text that looks like one stays a text. */
export class Uuid {
  constructor(readonly text: string) {
    if (!UUID.test(text)) throw new PayloadInvalid(`not a uuid: ${JSON.stringify(text)}`);
    Object.freeze(this);
  }

  toString(): string {
    return this.text;
  }

  toJSON(): string {
    return this.text;
  }
}

interface Time {
  offset: string | undefined;
  fraction: string;
  instant: number;
}

function parseTime(text: string): Time {
  const match = TIME.exec(text);
  if (match === null) throw new PayloadInvalid(`not an RFC 3339 date and time: ${JSON.stringify(text)}`);
  const [, date = "", hour, minute, second, fraction = "", offset] = match;
  checkDate(date);
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) throw new PayloadInvalid(`no such time: ${JSON.stringify(text)}`);
  const milliseconds = fraction.slice(0, 3).padEnd(3, "0");
  const instant = Date.parse(`${date}T${String(hour)}:${String(minute)}:${String(second)}.${milliseconds}${offset ?? "Z"}`);
  if (Number.isNaN(instant)) throw new PayloadInvalid(`no such time: ${JSON.stringify(text)}`);
  return { offset, fraction, instant };
}

/** A point in time that a Date alone would round: it has an offset of its own or more than three digits of a second. A Date in every other respect. */
export class Timestamp extends Date {
  readonly text: string;

  constructor(text: string) {
    super(parseTime(text).instant);
    this.text = text;
  }
}

/** A `time` of the payload format, as the type that holds it: Date where that is enough. */
export function readTime(text: string): Date | LocalDateTime {
  const { offset, fraction, instant } = parseTime(text);
  if (offset === undefined) return new LocalDateTime(text);
  return offset === "Z" && fraction.length <= 3 ? new Date(instant) : new Timestamp(text);
}

/** RFC 3339 in UTC, the fraction without trailing zeros. */
export function writeTime(value: Date): string {
  const instant = value.getTime();
  if (Number.isNaN(instant)) throw new PayloadInvalid("an invalid Date cannot be encoded");
  if (value instanceof Timestamp && parseTime(value.text).instant === instant) return value.text;
  const text = value.toISOString();
  if (text.length !== 24) throw new PayloadInvalid(`the year of ${text} is outside 0000 to 9999`);
  return text.endsWith(".000Z") ? `${text.slice(0, 19)}Z` : `${text.slice(0, -1).replace(/0+$/, "")}Z`;
}
