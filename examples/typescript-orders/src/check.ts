// Checks of values that came from outside. Each takes a value and where it was found, adds what is wrong with it to
// `problems`, and gives it back as its type; what it gives back counts only while there are no problems.

export type Check<T> = (value: unknown, at: string, problems: string[]) => T;

/** The type that a check gives back. */
export type Checked<C> = C extends Check<infer T> ? T : never;

function wrong(problems: string[], at: string, wish: string, value: unknown): never {
  const shown = value === undefined ? "nothing" : JSON.stringify(value)!;
  problems.push(`${at || "the order"}: expected ${wish}, found ${shown.length > 40 ? `${shown.slice(0, 40)}…` : shown}`);
  return undefined as never;
}

export function string({ max = Infinity, pattern = /^/, like = "" } = {}): Check<string> {
  return (value, at, problems) => {
    if (typeof value !== "string" || value.trim() === "") return wrong(problems, at, "a text", value);
    if (value.length > max) return wrong(problems, at, `at most ${max} characters`, value);
    return pattern.test(value) ? value.trim() : wrong(problems, at, `a text like ${like}`, value);
  };
}

export const email = () => string({ max: 254, pattern: /^[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+$/, like: "name@example.com" });

export function integer(least: number, most: number): Check<number> {
  return (value, at, problems) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most
      ? (value as number)
      : wrong(problems, at, `a whole number from ${least} to ${most}`, value);
}

export function date(): Check<Date> {
  return (value, at, problems) => {
    const isTime = typeof value === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(value);
    const time = new Date(isTime ? value : NaN);
    return Number.isNaN(time.getTime()) ? wrong(problems, at, "a time like 2026-11-23T09:30:00Z", value) : time;
  };
}

export function optional<T>(check: Check<T>): Check<T | undefined> {
  return (value, at, problems) => (value === undefined || value === null ? undefined : check(value, at, problems));
}

export function array<T>(check: Check<T>, least: number): Check<T[]> {
  return (value, at, problems) =>
    Array.isArray(value) && value.length >= least
      ? value.map((item, i) => check(item, `${at}[${i}]`, problems))
      : wrong(problems, at, `a list of at least ${least}`, value);
}

export function object<F extends Record<string, Check<unknown>>>(fields: F): Check<{ [K in keyof F]: Checked<F[K]> }> {
  return (value, at, problems) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return wrong(problems, at, "an object", value);
    const given = value as Record<string, unknown>;
    const checked = Object.entries(fields).map(([name, check]) => [name, check(given[name], at ? `${at}.${name}` : name, problems)]);
    return Object.fromEntries(checked);
  };
}
