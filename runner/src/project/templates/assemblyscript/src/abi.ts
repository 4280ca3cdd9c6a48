// What the world `wasmqtt:task/task` asks of a core module: `memory` (asc exports it), `cabi_realloc` and `run`. This is
// the same in every project; the task is in task.ts. What the numbers mean says the canonical ABI:
// https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md

import { task } from "./task";
import { Context, Result } from "./wasmqtt";

// The runner calls this for room for every string and list that it passes. An instance runs one task and is dropped:
// so nothing is ever freed, and nothing ever grows in place.
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  return heap.alloc(size);
}

// run: func(task: context, input: list<u8>) -> result<output, error>
export function run(
  id: usize, idLength: usize,
  tenant: usize, tenantLength: usize,
  module: usize, moduleLength: usize,
  attempt: u32,
  hasType: bool, type: usize, typeLength: usize,
  deadlineMs: u64,
  labels: usize, labelsLength: usize,
  input: usize, inputLength: usize,
): usize {
  const context = new Context();
  context.id = text(id, idLength);
  context.tenant = text(tenant, tenantLength);
  context.module = text(module, moduleLength);
  context.attempt = attempt;
  context.contentType = hasType ? text(type, typeLength) : null;
  context.deadlineMs = deadlineMs;
  // list<tuple<string, string>>: four words each
  for (let at = labels, end = labels + labelsLength * 16; at < end; at += 16) {
    context.labels.set(text(load<usize>(at), load<usize>(at, 4)), text(load<usize>(at, 8), load<usize>(at, 12)));
  }
  const bytes = new Uint8Array(<i32>inputLength);
  memory.copy(bytes.dataStart, input, inputLength);
  return lay(task(context, bytes));
}

function text(at: usize, length: usize): string {
  return String.UTF8.decodeUnsafe(at, length);
}

// result<output, error>, laid out in memory: 32 bytes, the payload at 8, since an `error` may hold a u64.
function lay(result: Result): usize {
  const at = heap.alloc(32);
  memory.fill(at, 0, 32);
  const data = result.data;
  if (data !== null) {
    store<usize>(at, data.dataStart, 8);
    store<usize>(at, data.byteLength, 12);
    const type = result.contentType;
    if (type !== null) {
      store<u8>(at, 1, 16);
      put(at + 20, type);
    }
  } else {
    store<u8>(at, 1);
    store<u8>(at, <u8>result.error, 8);
    put(at + 16, result.message);
    store<u64>(at, result.delayMs, 24);
  }
  return at;
}

function put(at: usize, words: string): void {
  const bytes = String.UTF8.encode(words);
  store<usize>(at, changetype<usize>(bytes));
  store<usize>(at, bytes.byteLength, 4);
}

// `throw` and failed assertions come here: they are logged, then they trap. asc is told by `--use abort=src/abi/abort`.
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const words = String.UTF8.encode(`${message === null ? "abort" : message} (${file === null ? "?" : file}:${line}:${column})`);
  log(4, changetype<usize>(words), words.byteLength);
  unreachable();
}

// @ts-ignore: decorator
@external("wasmqtt:task/host@0.1.0", "log")
declare function log(level: i32, message: usize, length: usize): void;
