// What a task is given and what it gives back, and what QuickJS lacks. The same in every project; wit/ says more.

import * as host from "wasmqtt:task/host@0.1.0";

/** What the task is told about itself. */
export interface Context {
  /** The task's id; it stays the same over retries. */
  id: string;
  /** The tenant that it belongs to. */
  tenant: string;
  /** The module as the producer named it. */
  module: string;
  /** Which attempt this is, counted from 1. */
  attempt: number;
  /** The media type of the input, when the producer named one. */
  contentType: string | null;
  /** When the runner will stop the task, in milliseconds since the Unix epoch. */
  deadlineMs: bigint;
  /** The task's labels: name and value. */
  labels: [string, string][];
}

/** What a task gives back when it succeeds. */
export interface Output {
  data: Uint8Array;
  contentType?: string;
}

/** Thrown: the input is wrong and always will be, so the task is never tried again. */
export class Reject extends Error {}

/** Thrown: it failed for now, and is worth another attempt after the delay. Any other error: the task's retry policy says. */
export class RetryAfter extends Error {
  constructor(message: string, readonly delayMs: number) {
    super(message);
  }
}

/** How much a log line matters. */
export type Level = "trace" | "debug" | "info" | "warn" | "error";

/** Writes a line to the task's log. */
export function log(level: Level, ...words: unknown[]): void {
  host.log(level, words.map((it) => (typeof it === "string" ? it : JSON.stringify(it))).join(" "));
}

/** Says how far the task is: `done` of `total` steps, and in a word what it is doing. */
export function progress(done: number, total: number, message: string): void {
  host.progress(done, total, message);
}

/** True when somebody asked for this task to be canceled. */
export const isCancelled: () => boolean = host.isCancelled;

/** A task of bytes: what `run` exports. What it throws is the task's error. */
export function task(work: (input: Uint8Array, context: Context) => Output) {
  return (context: Context, input: Uint8Array): Output => {
    try {
      return work(input, context);
    } catch (error) {
      throw asResult(error);
    }
  };
}

/** A task that takes JSON and gives back JSON. */
export function jsonTask(work: (input: unknown, context: Context) => unknown) {
  return task((input, context) => {
    let value: unknown;
    try {
      value = JSON.parse(fromUtf8(input));
    } catch (error) {
      throw new Reject(`the input is no JSON: ${(error as Error).message}`);
    }
    return { data: toUtf8(JSON.stringify(work(value, context))), contentType: "application/json" };
  });
}

/** As the world has it: a variant, by its tag. */
function asResult(error: unknown): object {
  if (error instanceof RetryAfter) {
    return { tag: "retry-after", val: { message: error.message, delayMs: error.delayMs } };
  }
  if (error instanceof Reject) return { tag: "reject", val: error.message };
  if (error instanceof Error && error.stack) log("error", error.stack);
  return { tag: "failed", val: String(error) };
}

/** Bytes of UTF-8 as a string; what is no UTF-8 becomes U+FFFD. */
export function fromUtf8(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; ) {
    const first = bytes[i++]!;
    const more = first < 0x80 ? 0 : first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
    let code = more < 1 ? first : first & (0x3f >> more);
    let got = 0;
    while (got < more && (bytes[i + got]! & 0xc0) === 0x80) code = (code << 6) | (bytes[i + got++]! & 0x3f);
    const least = more === 2 ? 0x800 : more === 3 ? 0x10000 : 0;
    const isCode = got === more && code >= least && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    text += String.fromCodePoint(isCode ? code : 0xfffd);
    i += isCode ? got : 0;
  }
  return text;
}

/** A string as bytes of UTF-8. */
export function toUtf8(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    let code = character.codePointAt(0)!;
    if (code >= 0xd800 && code <= 0xdfff) code = 0xfffd; // half a pair
    if (code < 0x80) bytes.push(code);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 0x3f));
    else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    else {
      bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 0x3f), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    }
  }
  return Uint8Array.from(bytes);
}
