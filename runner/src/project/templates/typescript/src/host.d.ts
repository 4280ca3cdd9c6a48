// The world's imports, as componentize-qjs gives them to a module.
declare module "wasmqtt:task/host@0.1.0" {
  export function log(level: "trace" | "debug" | "info" | "warn" | "error", message: string): void;
  export function progress(done: number, total: number, message: string): void;
  export function isCancelled(): boolean;
  export function fuelRemaining(): bigint;
}
