// Lines of `time,value` in; out, as JSON, the readings that are unlike the 12 before them.

import { Context, Level, Result, log, text } from "./wasmqtt";

/** So many readings before it are what a reading is compared with. */
const WINDOW = 12;
/** Further from their mean than so many standard deviations is unlike them. */
const LIMIT = 4.0;

export function task(context: Context, input: Uint8Array): Result {
  const lines = text(input).split("\n");
  const window = new StaticArray<f64>(WINDOW);
  let found = "";
  let count = 0, odd = 0;
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i].trim();
    if (line.length == 0) continue;
    const comma = line.indexOf(",");
    const value = comma < 0 ? NaN : F64.parseFloat(line.substring(comma + 1));
    if (!isFinite(value)) return Result.reject(`line ${i + 1}: not \`time,value\``);
    if (count >= WINDOW) {
      const mean = meanOf(window);
      const distance = Math.abs(value - mean) / deviationOf(window, mean);
      if (distance > LIMIT) {
        const time = quoted(line.substring(0, comma));
        found += `${odd++ ? "," : ""}\n  {"time": ${time}, "value": ${value}, "expected": ${rounded(mean)}}`;
        // What is unlike the others is not what the next are compared with.
        continue;
      }
    }
    window[count++ % WINDOW] = value;
  }
  log(Level.Info, `${count + odd} readings, ${odd} of them odd`);
  return Result.text(`[${found}\n]\n`, "application/json");
}

function meanOf(values: StaticArray<f64>): f64 {
  let sum = 0.0;
  for (let i = 0; i < WINDOW; i++) sum += values[i];
  return sum / WINDOW;
}

/** The sample standard deviation; never 0, for a series that stands still. */
function deviationOf(values: StaticArray<f64>, mean: f64): f64 {
  let sum = 0.0;
  for (let i = 0; i < WINDOW; i++) sum += (values[i] - mean) * (values[i] - mean);
  return Math.max(Math.sqrt(sum / (WINDOW - 1)), 1e-9);
}

function rounded(value: f64): f64 {
  return Math.round(value * 100) / 100;
}

/** As a string of JSON. */
function quoted(words: string): string {
  let out = '"';
  for (let i = 0; i < words.length; i++) {
    const code = words.charCodeAt(i);
    if (code == 0x22 || code == 0x5c) out += "\\" + words.charAt(i);
    else if (code < 0x20) out += "\\u00" + (code < 0x10 ? "0" : "") + code.toString(16);
    else out += words.charAt(i);
  }
  return out + '"';
}
