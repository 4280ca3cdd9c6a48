// A web shop's orders in, as its webhook sends them; out, those that are whole in the shape that the warehouse takes, and
// of every other one all that is wrong with it.

import { Reject, jsonTask, log } from "./wasmqtt.ts";
import { type Checked, array, date, email, integer, object, optional, string } from "./check.ts";

const ORDER = object({
  id: string({ pattern: /^[A-Z]{2}-\d{4,}$/, like: "AB-1234" }),
  created_at: date(),
  customer: object({ name: string({ max: 80 }), email: email() }),
  items: array(object({ sku: string({ max: 20 }), quantity: integer(1, 999), unit_price_cents: integer(0, 10_000_000) }), 1),
  note: optional(string({ max: 200 })),
});

type Order = Checked<typeof ORDER>;

export const run = jsonTask((input) => {
  if (!Array.isArray(input)) throw new Reject("the input is no list of orders");
  const picked: ReturnType<typeof pick>[] = [];
  const refused: { index: number; problems: string[] }[] = [];
  for (const [index, value] of input.entries()) {
    const problems: string[] = [];
    const order = ORDER(value, "", problems);
    if (problems.length > 0) refused.push({ index, problems });
    else picked.push(pick(order));
  }
  log("info", `${picked.length} orders picked, ${refused.length} refused`);
  return { picked, refused };
});

/** As the warehouse takes it. */
function pick(order: Order) {
  const lines = new Map<string, number>();
  let total = 0;
  for (const { sku, quantity, unit_price_cents } of order.items) {
    lines.set(sku, (lines.get(sku) ?? 0) + quantity);
    total += quantity * unit_price_cents;
  }
  return {
    orderId: order.id,
    day: order.created_at.toISOString().slice(0, 10),
    recipient: `${order.customer.name} <${order.customer.email}>`,
    lines: [...lines].map(([sku, quantity]) => ({ sku, quantity })).sort((a, b) => (a.sku < b.sku ? -1 : 1)),
    totalCents: total,
    ...(order.note === undefined ? {} : { note: order.note }),
  };
}
