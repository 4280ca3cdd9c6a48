// What a task is given and what it gives back. The same in every project; wit/ in wasmqtt's repository says more.

/** What the task is told about itself. */
export class Context {
  /** The task's id; it stays the same over retries. */
  id: string = "";
  /** The tenant that it belongs to. */
  tenant: string = "";
  /** The module as the producer named it. */
  module: string = "";
  /** Which attempt this is, counted from 1. */
  attempt: u32 = 1;
  /** The media type of the input, when the producer named one. */
  contentType: string | null = null;
  /** When the runner will stop the task, in milliseconds since the Unix epoch. */
  deadlineMs: u64 = 0;
  /** The task's labels. */
  labels: Map<string, string> = new Map();
}

/** How a task ends. */
export class Result {
  data: Uint8Array | null = null;
  contentType: string | null = null;
  error: u8 = 0;
  message: string = "";
  delayMs: u64 = 0;

  /** It succeeded; these are the bytes of the output. */
  static bytes(data: Uint8Array, contentType: string | null = null): Result {
    const result = new Result();
    result.data = data;
    result.contentType = contentType;
    return result;
  }

  /** It succeeded; this is the output. */
  static text(words: string, contentType: string = "text/plain"): Result {
    return Result.bytes(Uint8Array.wrap(String.UTF8.encode(words)), contentType);
  }

  /** The input is wrong and always will be: never retried. */
  static reject(why: string): Result {
    return Result.err(0, why);
  }

  /** It failed for now: worth another attempt, not before the delay. */
  static retryAfter(why: string, delayMs: u64): Result {
    const result = Result.err(1, why);
    result.delayMs = delayMs;
    return result;
  }

  /** It failed: retried if the task's own retry policy allows another attempt. */
  static failed(why: string): Result {
    return Result.err(2, why);
  }

  private static err(error: u8, message: string): Result {
    const result = new Result();
    result.error = error;
    result.message = message;
    return result;
  }
}

/** The input as text. */
export function text(input: Uint8Array): string {
  return String.UTF8.decodeUnsafe(input.dataStart, input.byteLength);
}

/** How much a log line matters. */
export enum Level {
  Trace,
  Debug,
  Info,
  Warn,
  Error,
}

/** Writes a line to the task's log. */
export function log(level: Level, message: string): void {
  const bytes = String.UTF8.encode(message);
  hostLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Says how far the task is: `done` of `total` steps, and in a word what it is doing. */
export function progress(done: u64, total: u64, message: string): void {
  const bytes = String.UTF8.encode(message);
  hostProgress(done, total, changetype<usize>(bytes), bytes.byteLength);
}

// @ts-ignore: decorator
@external("wasmqtt:task/host@0.1.0", "is-cancelled")
export declare function isCancelled(): bool;

// @ts-ignore: decorator
@external("wasmqtt:task/host@0.1.0", "fuel-remaining")
export declare function fuelRemaining(): u64;

// @ts-ignore: decorator
@external("wasmqtt:task/host@0.1.0", "log")
declare function hostLog(level: i32, message: usize, length: usize): void;

// @ts-ignore: decorator
@external("wasmqtt:task/host@0.1.0", "progress")
declare function hostProgress(done: u64, total: u64, message: usize, length: usize): void;
