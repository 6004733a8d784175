import { ConfigInvalid } from "../errors_gen.js";

const LEVELS: readonly string[] = ["read uncommitted", "read committed", "repeatable read", "serializable"];

/** Here, and not by the server, in each transaction and with a syntax error. Null and undefined are no level said, to the drivers as here. */
export function checkIsolation(given: unknown, what: string, levels: readonly string[] = LEVELS): void {
  if (given !== undefined && given !== null && !(typeof given === "string" && levels.includes(given))) {
    throw new ConfigInvalid(`${what} is ${levels.map((level) => JSON.stringify(level)).join(", ")}, not ${typeof given === "string" ? JSON.stringify(given) : `a ${typeof given}`}`);
  }
}
