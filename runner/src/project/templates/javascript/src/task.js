import { Reject, jsonTask, log } from "./wasmqtt.ts";

/** What the task does: JSON in, JSON out. */
export const run = jsonTask((input, context) => {
  const name = input?.name;
  if (typeof name !== "string") throw new Reject("`name` is no text");
  log("info", `a greeting for task ${context.id}`);
  return { greeting: `hello, ${name}` };
});
