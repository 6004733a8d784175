import { ConfigInvalid } from "../errors_gen.js";

const LEVELS: readonly string[] = ["read committed", "repeatable read", "serializable"];

/** Here, and not by the server, in each transaction and with a syntax error. */
export function checkIsolation(given: unknown, what: string, levels: readonly string[] = LEVELS): void {
  if (given !== undefined && !(typeof given === "string" && levels.includes(given))) {
    throw new ConfigInvalid(`${what} is ${levels.map((level) => JSON.stringify(level)).join(", ")}, not ${typeof given === "string" ? JSON.stringify(given) : `a ${typeof given}`}`);
  }
}
