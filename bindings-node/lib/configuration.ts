/** What an engine is configured with, as the text the engine reads; its messages name options as the program wrote them. */

import type { EverstepOptions } from "./app.js";
import { ConfigInvalid } from "./errors_gen.js";
import { type Duration, milliseconds } from "./times.js";

/** Options whose key in the configuration is another one. */
const KEYS: Readonly<Record<string, string>> = { lease: "lease_ms", outageBudget: "outage_budget_ms", maxPayload: "max_payload", autoMigrate: "auto_migrate" };

export class Configuration {
  private readonly values: Readonly<Record<string, unknown>>;
  /** Of a key that was given as an option: the option's name. */
  private readonly names = new Map<string, string>();

  constructor(given: EverstepOptions) {
    const { settings, ...options } = { ...given, strict: undefined };
    // A named option wins over its key among the settings; one that was not given must not hide that key.
    const values: Record<string, unknown> = { ...settings, language: "node" };
    for (const [name, value] of Object.entries(options) as [string, unknown][]) {
      if (value === undefined) continue;
      const key = KEYS[name] ?? name;
      values[key] = key.endsWith("_ms") ? milliseconds(value as Duration, name) : value;
      this.names.set(key, name);
    }
    this.values = values;
  }

  get role(): unknown {
    return this.values["role"] ?? "worker";
  }

  json(): string {
    try {
      return JSON.stringify(this.values, (key, value: unknown) => this.written(key, value));
    } catch (error) {
      throw error instanceof ConfigInvalid ? error : new ConfigInvalid("settings are texts, numbers, booleans and lists of them", { cause: error });
    }
  }

  /**
   * What JSON has no word for it leaves out or calls null, and that is the default: a variable that is not set, `Number(process.env.SLOTS)`, would silently be 100
   * slots.
   */
  private written(key: string, value: unknown): unknown {
    const name = this.names.get(key) ?? `settings.${key}`;
    if (typeof value === "number" && !Number.isFinite(value)) throw new ConfigInvalid(`${name} is a finite number, not ${String(value)}`);
    if (["function", "symbol", "bigint"].includes(typeof value)) throw new ConfigInvalid(`${name} is a text, a number, a boolean or a list of them, not a ${typeof value}`);
    return value;
  }

  /** What the engine says of a key, about the option of another name that it was given by. */
  asWritten(error: unknown): unknown {
    if (!(error instanceof ConfigInvalid)) return error;
    return new ConfigInvalid(error.message.replace(/\b[a-z]+(?:_[a-z]+)+\b/g, (key) => this.names.get(key) ?? key));
  }
}
