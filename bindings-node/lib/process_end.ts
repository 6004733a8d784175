/** Who hears that this process ends: one listener for all engines, where one each would warn of a leak from the eleventh on. */

export interface HearsEnd {
  /** Nothing is pending any more. */
  beforeExit(): void;
  /** The process exits now: what is to be done must be done at once. */
  atExit(): void;
}

const open = new Set<HearsEnd>();

// Copies: whoever is told may take itself out.
const beforeExit = (): void => {
  for (const engine of [...open]) engine.beforeExit();
};
const atExit = (): void => {
  for (const engine of [...open]) engine.atExit();
};

export function hearEnd(engine: HearsEnd): void {
  if (open.size === 0) {
    process.on("beforeExit", beforeExit);
    process.on("exit", atExit);
  }
  open.add(engine);
}

export function hearNoEnd(engine: HearsEnd): void {
  if (!open.delete(engine) || open.size > 0) return;
  process.off("beforeExit", beforeExit);
  process.off("exit", atExit);
}
