/** One engine as JavaScript sees it: its handle, its client, its functions, its life. */

import { isMainThread } from "node:worker_threads";
import { Client } from "./client.js";
import type { Configuration } from "./configuration.js";
import { AlreadyLaunched, AlreadyRegistered, Closed, ConfigInvalid, RegisteredLate } from "./errors_gen.js";
import { DeclaredErrors, nativeError } from "./failures.js";
import type { Frame, Value } from "./frame.js";
import { log } from "./logging.js";
import { native } from "./native.js";
import { OP_CONNECT, OP_DRAIN, OP_INFO, OP_LAUNCH, OP_PUT_QUEUE, OP_REGISTER } from "./ops_gen.js";
import { type HearsEnd, hearEnd, hearNoEnd } from "./process_end.js";
import type { Registered } from "./registered.js";
import { type Execution, executionHere } from "./scope.js";
import { outside } from "./surroundings.js";
import { clearTimeout, setInterval, setTimeout } from "./timers.js";

/** How soon an engine that may have nothing pending looks whether that is so, before it lets the process end; while something is, it looks ever more seldom. */
const LOOK_MS = 20;
const SELDOM_MS = 2_000;
const FOREVER_MS = 0x7fffffff;
const SIGNALS = ["SIGTERM", "SIGINT"] as const;

export class Engine implements HearsEnd {
  readonly declared = new DeclaredErrors();
  readonly functions = new Map<string, Registered>();
  readonly executions = new Map<number, Execution>();
  /** Records of the queues declared here, made at launch. */
  readonly queues: Value[][] = [];
  launched = false;
  closed = false;
  private closing: Promise<void> | undefined;
  private client: Client | undefined;
  private holding: NodeJS.Timeout | undefined;
  private lookAfter = LOOK_MS;
  private serving = false;
  private saidUnlaunched = false;

  constructor(
    private readonly config: Configuration,
    readonly strict: boolean,
  ) {}

  // -- functions

  checkOpen(): void {
    if (this.closed) throw new Closed("this engine is closed; make a new one");
  }

  register(registered: Registered): void {
    this.checkOpen();
    const known = this.functions.get(registered.name);
    if (known !== undefined) {
      throw new AlreadyRegistered(
        `the name ${JSON.stringify(registered.name)} is taken by the ${known.kind} declared at ${known.where}; this one is declared at ${registered.where}. ` +
          "Declare functions once, at the top of a module, not in a request handler",
      );
    }
    if (this.launched) {
      throw new RegisteredLate(`${JSON.stringify(registered.name)} (${registered.where}) was declared after launch; import the module that declares it first`);
    }
    if (this.client !== undefined) this.announce(registered, this.client);
    this.functions.set(registered.name, registered);
  }

  private announce(registered: Registered, client: Client): void {
    if (registered.isTransaction) return;
    client.call(OP_REGISTER, [client.id, registered.kind, registered.name, registered.version, registered.registration]);
  }

  // -- the handle

  /** The client, opened on first use: importing a program opens nothing. */
  open(): Client {
    this.checkOpen();
    if (this.client === undefined) {
      let handle: number;
      try {
        handle = native().open(this.config.json(), !isMainThread);
      } catch (error) {
        throw this.config.asWritten(nativeError(error));
      }
      try {
        const client = new Client(this, handle);
        // Before it counts as open: where one function is refused, the next attempt must not find an engine that knows half of them.
        for (const registered of this.functions.values()) this.announce(registered, client);
        this.client = client;
      } catch (error) {
        native().closeNow(handle);
        throw error;
      }
      if (isMainThread) hearEnd(this);
    }
    return this.client;
  }

  call(op: number, values: readonly Value[]): Frame {
    return this.open().call(op, values);
  }

  /** An operation from outside any run. */
  request(op: number, values: readonly Value[]): Promise<Frame> {
    let client: Client;
    try {
      client = this.open();
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
    return client.ask(undefined, op, values);
  }

  // -- life

  /** Said before a wait that nothing here will end; another worker may. */
  warnUnlaunched(): void {
    if (this.launched || this.closed || this.saidUnlaunched || this.config.role !== "worker") return;
    this.saidUnlaunched = true;
    log.warn("waiting for a run on an engine that is not launched: unless another worker runs it, call `await app.launch()`");
  }

  async launch(): Promise<void> {
    // A launch that fails ends the engine, and this one is its close's to end.
    if (this.wasClosed()) {
      await this.closing;
      throw new Closed("this engine is closed; make a new one");
    }
    if (this.launched) throw new AlreadyLaunched("launch was called twice");
    const client = this.open();
    this.launched = true;
    try {
      for (const queue of this.queues) await client.ask(undefined, OP_PUT_QUEUE, [queue, false]);
      const answer = await client.ask(undefined, this.config.role === "client" ? OP_CONNECT : OP_LAUNCH, []);
      const [notice, held] = answer;
      if (typeof notice === "string") log.info(notice);
      if (typeof held === "string") log.warn(held);
    } catch (error) {
      await this.end(client);
      // A launch that failed may be tried again: the database was down, the password wrong. One that was closed meanwhile may not: nobody would close it again.
      if (!this.wasClosed()) {
        this.launched = false;
        this.closed = false;
        this.client = undefined;
      }
      throw error;
    }
    // The launch was the faster of the two, but nobody has an engine: it is being closed.
    if (this.closing !== undefined) {
      await this.closing;
      throw new Closed("the engine was closed while it launched");
    }
  }

  /** Claim no more, let runs finish or park, hand the rest over. A second call waits for the first. */
  close(deadlineMs: number): Promise<void> {
    const execution = executionHere();
    // One that has ended is waited for by nobody.
    if (execution !== undefined && this.executions.get(execution.id) === execution) return Promise.reject(new ConfigInvalid("close() inside a run would wait for that run; close from outside"));
    this.closing ??= this.closeOnce(deadlineMs);
    return this.closing;
  }

  private wasClosed(): boolean {
    return this.closing !== undefined;
  }

  private async closeOnce(deadlineMs: number): Promise<void> {
    const { client } = this;
    if (client === undefined || this.closed) {
      this.closed = true;
      return;
    }
    if (this.launched && deadlineMs > 0) {
      try {
        await client.ask(undefined, OP_DRAIN, [deadlineMs]);
      } catch (error) {
        log.warn("drain", { error });
      }
    }
    await this.end(client);
  }

  private async end(client: Client): Promise<void> {
    this.closed = true;
    hearNoEnd(this);
    for (const execution of this.executions.values()) execution.stop("closed");
    this.executions.clear();
    client.leave();
    const ended = native().close(client.handle, 1_000);
    // What native work is under way keeps the loop alive by itself.
    this.releaseLoop();
    await ended;
  }

  /** Runs until the process is asked to stop, then drains. */
  async serve(graceMs: number): Promise<void> {
    if (!isMainThread) throw new ConfigInvalid("serve waits for signals, which only the main thread gets: use launch and close in a worker thread");
    let stop: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => {
      stop = resolve;
    });
    for (const signal of SIGNALS) process.once(signal, stop);
    try {
      await this.launch();
      this.serving = true;
      this.holdLoop();
      await asked;
    } finally {
      this.serving = false;
      // From here on a signal, whichever, does what it does to every program: it cuts the drain short.
      for (const signal of SIGNALS) process.off(signal, stop);
    }
    await this.close(graceMs);
  }

  // -- the event loop

  /**
   * The loop is kept alive while something is pending: a promise of a caller, an execution, work the engine holds for us. A timer does that, for the completion
   * queue itself is weak. Two calls of the timer's an operation would cost more than the operation, so it is only looked at when it may have become idle.
   */
  holdLoop(): void {
    if (this.holding !== undefined) return;
    this.lookAfter = LOOK_MS;
    this.holding = outside(() => setTimeout(this.look, LOOK_MS));
  }

  /** The last promise is settled, the last execution over. */
  mayBeIdle(): void {
    if (this.lookAfter === LOOK_MS || this.executions.size > 0 || this.holding === undefined || this.serving) return;
    this.releaseLoop();
    this.holdLoop();
  }

  private readonly look = (): void => {
    if (this.serving) {
      this.holding = setInterval(() => undefined, FOREVER_MS);
    } else if (!this.closed && (this.client?.idle === false || this.executions.size > 0 || this.executing() > 0)) {
      this.lookAfter = Math.min(this.lookAfter * 2, SELDOM_MS);
      this.holding = setTimeout(this.look, this.lookAfter);
    } else {
      this.releaseLoop();
    }
  };

  private releaseLoop(): void {
    clearTimeout(this.holding);
    this.holding = undefined;
  }

  private executing(): number {
    const info = JSON.parse(String(this.call(OP_INFO, [])[0])) as { executing: number };
    return info.executing;
  }

  ended(execution: Execution): void {
    this.executions.delete(execution.id);
    this.mayBeIdle();
  }

  /** Nothing is pending and nobody called close(): the lease is given back as close() would. */
  beforeExit(): void {
    void this.close(0);
  }

  /** `process.exit`: with runs under way this is a crash, and must count as one; without, the lease is given back. */
  atExit(): void {
    if (this.client === undefined || this.closed) return;
    if (this.executions.size === 0) native().closeNow(this.client.handle);
  }
}
