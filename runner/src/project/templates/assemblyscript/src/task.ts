import { Context, Level, Result, log, text } from "./wasmqtt";

/** What the task does: bytes in, bytes out. */
export function task(context: Context, input: Uint8Array): Result {
  if (input.length == 0) return Result.reject("nothing to shout");
  log(Level.Info, `${input.length} bytes for task ${context.id}`);
  return Result.text(text(input).toUpperCase());
}
