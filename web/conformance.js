// Answers the protocol's test vectors with the page's arithmetic: kit conformance --cmd "node web/conformance.js"

import { createInterface } from "node:readline";

import * as sums from "./src/arithmetic.js";

function interval(value) {
  if (value === null || value === undefined) return null;
  return typeof value === "object" ? value : sums.exact(value);
}

function known(value) {
  const found = interval(value);
  if (!found) throw new RangeError("an energy is unknown, and nothing follows from it");
  return found;
}

const energy = (value) => (interval(value) ? sums.alone(interval(value)) : null);
const parts = (list) => sums.added([list]);
const end = (value) => (Number.isFinite(value) ? value : "inf");
const even = ({ low, high, ...rest }) => ({ ...rest, low: end(low), high: end(high) });

const OPERATIONS = {
  facility({ it_energy_j: joules, pue, g_co2e_per_kwh: grams }) {
    const building = sums.facility(known(joules), pue);
    const kg = grams === null || grams === undefined ? null : sums.co2eKg(building, grams).best;
    return { facility_energy_j: building.best, co2e_kg: kg };
  },
  amortize({ own_j: own, teacher_j: teacher, reuses }) {
    const found = sums.amortize(known(own), known(teacher), reuses);
    return { marginal_j: found.marginal.best, amortized_j: found.amortized.best, full_j: found.full.best };
  },
  break_even: (given) =>
    even(sums.breakEven(energy(given.teacher), energy(given.baseline_student), energy(given.distilled_student))),
  shared_break_even: (given) =>
    even(
      sums.breakEven(
        parts(given.teacher),
        parts(given.baseline_student),
        parts(given.distilled_student),
        given.scales,
      ),
    ),
  serving_break_even: (given) =>
    even(sums.servingBreakEven(interval(given.extra_train_j), interval(given.j_ref), interval(given.j_student))),
  shared_ratio(given) {
    const found = sums.ratio(parts(given.one), parts(given.other), given.scales);
    if (!found) throw new RangeError("nothing is a multiple of no energy");
    return { ratio: found.best, low: found.low, high: end(found.high) };
  },
  pareto({ points }) {
    const placed = points.map((p) => ({ name: p.name, cost: known(p.energy), quality: known(p.quality) }));
    const standings = sums.pareto(placed);
    const lists = (key) => Object.fromEntries(standings.filter((s) => s[key].length).map((s) => [s.name, s[key]]));
    return { frontier: sums.frontierOf(placed, standings), dominated_by: lists("dominatedBy"), ties: lists("ties") };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  if (!line.trim()) continue;
  const { id, op, input } = JSON.parse(line);
  const operation = OPERATIONS[op];
  let answer = { id, unsupported: true };
  if (operation) {
    try {
      answer = { id, output: operation(input) };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      answer = { id, error: error.message };
    }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
