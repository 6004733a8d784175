/** The native part, one for one the functions of `core/docs/protocol.md`. Errors it throws carry the engine's code in `code`. */
export interface Native {
  abi(): number;
  open(config: string, endsWithThread: boolean): number;
  attach(handle: number, ordered: boolean, onEvents: (batch: Uint8Array) => void): number;
  /** A status byte and the answer's frame: their length in `answer`, or a buffer of their own where they do not fit. */
  call(handle: number, op: number, frame: Uint8Array, length: number, answer: Uint8Array): number | Uint8Array;
  submit(handle: number, client: number, token: number, op: number, frame: Uint8Array, length: number): boolean;
  cancel(handle: number, client: number, token: number): void;
  close(handle: number, deadlineMs: number): Promise<void>;
  closeNow(handle: number): void;
}
