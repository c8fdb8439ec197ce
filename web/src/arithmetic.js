// What a reader may choose and what follows from it: PUE, grid intensity, reuse, N*, T*, the frontier.
//
// Pure functions. Nothing here knows of a page. `node conformance.js` answers the protocol's test vectors with them,
// the way harness/accounting answers them in Python.

const J_PER_KWH = 3_600_000;
const MOST_SCALES = 10; // corners visited: 2^10; further scales widen their parts, which can only widen a result

// ---- intervals: {best, low, high}; an unknown one is null

export const exact = (value) => ({ best: value, low: value, high: value });

export const scaled = (interval, factor) => ({
  best: interval.best * factor,
  low: interval.low * factor,
  high: interval.high * factor,
});

export function total(intervals) {
  let [best, low, high] = [0, 0, 0];
  for (const one of intervals) {
    best += one.best;
    low += one.low;
    high += one.high;
  }
  return { best, low: Math.min(best, low), high: Math.max(best, high) };
}

// ---- what a reader applies

export function facility(energy, pue) {
  if (!(pue >= 1)) throw new RangeError(`PUE is total energy over IT energy and cannot be ${pue}`);
  return scaled(energy, pue);
}

export const co2eKg = (energy, gPerKwh) => scaled(energy, gPerKwh / J_PER_KWH / 1000);

export const perToken = (energy, tokens) => (energy && tokens > 0 ? scaled(energy, 1 / tokens) : null);

// One run's energy three ways: once the teacher's output exists, shared by `reuses` students, and alone.
export function amortize(own, teacher, reuses) {
  if (!Number.isInteger(reuses) || reuses < 1) throw new RangeError(`reuses is a whole number from 1, not ${reuses}`);
  return {
    marginal: own,
    amortized: total([own, scaled(teacher, 1 / reuses)]),
    full: total([own, teacher]),
  };
}

// ---- exact decimals: 11.00 / (6.30 - 5.20) is 10, not a hair more

function decimal(value) {
  if (!Number.isFinite(value)) return value;
  const [, sign, whole, part = "", exponent = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/.exec(String(value));
  const power = Number(exponent) - part.length;
  const digits = BigInt(sign + whole + part);
  return power >= 0 ? { n: digits * 10n ** BigInt(power), d: 1n } : { n: digits, d: 10n ** BigInt(-power) };
}

const isExact = (value) => typeof value === "object";

function toNumber(value) {
  if (!isExact(value)) return value;
  const { n, d } = value;
  if (n === 0n) return 0;
  const size = (x) => x.toString().length;
  const shift = Math.max(0, 30 - (size(n < 0n ? -n : n) - size(d)));
  return Number(`${(n * 10n ** BigInt(shift)) / d}e-${shift}`);
}

function minus(a, b) {
  if (!isExact(a) || !isExact(b)) return toNumber(a) - toNumber(b);
  return { n: a.n * b.d - b.n * a.d, d: a.d * b.d };
}

function over(a, b) {
  if (!isExact(a) || !isExact(b)) return toNumber(a) / toNumber(b);
  return b.n < 0n ? { n: -a.n * b.d, d: -a.d * b.n } : { n: a.n * b.d, d: a.d * b.n };
}

const sign = (value) => (isExact(value) ? (value.n > 0n ? 1 : value.n < 0n ? -1 : 0) : Math.sign(value));

function ceiling(value) {
  if (!isExact(value)) return Math.ceil(value);
  const { n, d } = value;
  return Number(n > 0n ? (n + d - 1n) / d : n / d);
}

// ---- scales that several energies share: an energy is a list of parts {scales: [names], best, low, high}

export const alone = (interval) => [{ scales: [], ...interval }];

const keyOf = (part) => [...part.scales].join("\u0000");

export function added(energies) {
  const parts = new Map();
  for (const part of energies.flat()) {
    const key = keyOf(part);
    if (!parts.has(key)) parts.set(key, { scales: part.scales, items: [] });
    parts.get(key).items.push(part);
  }
  return [...parts.values()].map(({ scales, items }) => ({ scales, ...total(items) }));
}

export const times = (energy, factor) => energy.map((part) => ({ scales: part.scales, ...scaled(part, factor) }));

// The energy where each scale has one value; one that is not named has its best, 1.
export function at(energy, gains = {}) {
  return total(energy.map((part) => scaled(part, part.scales.reduce((gain, name) => gain * (gains[name] ?? 1), 1))));
}

// The energy as a report states it (4.4): an estimate has the range of its scale; a device's gain stands beside, as does
// what kinds of stages differ by on one machine.
export function stated(energy, scales) {
  return total(
    energy.map((part) => {
      const ends = part.scales.filter((name) => !/^(gain|program) /.test(name)).map((name) => scales[name]);
      const [low, high] = [0, 1].map((side) => ends.reduce((gain, end) => gain * end[side], part.best));
      return ends.length ? { best: part.best, low, high } : part;
    }),
  );
}

function widened(energy, scales, kept) {
  return added([
    energy.map((part) => {
      const rest = part.scales.filter((name) => !kept.has(name));
      const end = (side) => rest.reduce((gain, name) => gain * scales[name][side], 1);
      return {
        scales: part.scales.filter((name) => kept.has(name)),
        best: part.best,
        low: Math.min(part.best, part.low * end(0)),
        high: Math.max(part.best, part.high * end(1)),
      };
    }),
  ]);
}

// The energies at each corner of the box of scales at which not all of them vanish.
export function corners(energies, scales) {
  const weight = new Map();
  for (const part of energies.flat()) {
    for (const name of part.scales) {
      const [low, high] = scales[name];
      weight.set(name, (weight.get(name) ?? 0) + part.high * (high - low));
    }
  }
  const names = [...weight.keys()]
    .sort((a, b) => weight.get(b) - weight.get(a) || (a < b ? -1 : 1))
    .slice(0, MOST_SCALES);
  const given = energies.map((energy) => widened(energy, scales, new Set(names)));
  const found = [];
  for (let corner = 0; corner < 2 ** names.length; corner += 1) {
    const gains = Object.fromEntries(names.map((name, place) => [name, scales[name][(corner >> place) & 1]]));
    const ends = given.map((energy) => at(energy, gains));
    if (!names.length || ends.some((energy) => energy.high > 0)) found.push(ends);
  }
  return found;
}

// How many times another energy one is; null where the other is nothing by its best value.
export function ratio(one, other, scales) {
  const below = at(other).best;
  if (below <= 0) return null;
  const best = at(one).best / below;
  let [low, high] = [Infinity, 0];
  for (const [a, b] of corners([one, other], scales)) {
    if (b.high > 0) low = Math.min(low, a.low / b.high);
    high = Math.max(high, b.low > 0 ? a.high / b.low : Infinity);
  }
  return { best, low: Math.min(low, best), high: Math.max(high, best) };
}

export function difference(one, other, scales) {
  const best = at(one).best - at(other).best;
  const found = corners([one, other], scales);
  return {
    best,
    low: Math.min(best, ...found.map(([a, b]) => a.low - b.high)),
    high: Math.max(best, ...found.map(([a, b]) => a.high - b.low)),
  };
}

// ---- N* and T*

const UNDEFINED = { case: "undefined", ratio: null, whole: null, low: 0, high: Infinity };

// N* = teacher / (direct - distilled), as energies by scales; null is unknown.
export function breakEven(teacher, direct, distilled, scales = {}) {
  if (!teacher || !direct || !distilled) return UNDEFINED;
  const [paid, base, student] = [teacher, direct, distilled].map((energy) => at(energy).best);
  if (Math.min(paid, base, student) < 0) return UNDEFINED;
  const cost = decimal(paid);
  const saving = minus(decimal(base), decimal(student));
  let [low, high] = [Infinity, 0];
  for (const [spent, reference, own] of corners([teacher, direct, distilled], scales)) {
    const ends = bounds({ ...spent, low: Math.max(0, spent.low) }, reference, own);
    low = Math.min(low, ends[0]);
    high = Math.max(high, ends[1]);
  }
  const pays = sign(cost) === 0 ? sign(saving) >= 0 : sign(saving) > 0;
  const name = !pays ? "never" : sign(cost) === 0 ? "always" : "finite";
  return outcome(name, cost, saving, low, high, 1);
}

// T* = extra training energy / (J per served token of the reference - that of the student). `extra` is an interval,
// or the two trainings' energies, its own first; joules per served token are intervals or energies by scales.
export function servingBreakEven(extra, reference, student, scales = {}) {
  if (!extra || !reference || !student) return UNDEFINED;
  const byScales = (joules) => (Array.isArray(joules) ? joules : alone(joules));
  const given = [...(Array.isArray(extra) ? extra : [alone(extra), []]), byScales(reference), byScales(student)];
  const [ours, theirs, dearer, own] = given.map((energy) => at(energy).best);
  if (Math.min(dearer, own) < 0) return UNDEFINED;
  const more = ours - theirs;
  const saving = minus(decimal(dearer), decimal(own));
  if (more <= 0 && sign(saving) < 0) return UNDEFINED;
  let [low, high] = [Infinity, 0];
  for (const [costlier, other, served, mine] of corners(given, scales)) {
    const cost = { low: Math.max(0, costlier.low - other.high), high: Math.max(0, costlier.high - other.low) };
    const ends = bounds(cost, served, mine);
    low = Math.min(low, ends[0]);
    high = Math.max(high, ends[1]);
  }
  const name = more <= 0 ? "always" : sign(saving) > 0 ? "finite" : "never";
  return outcome(name, decimal(more), saving, low, high, 0);
}

// Least and largest cost / (reference - own); a saving of nothing pays a cost never.
function bounds(cost, reference, own) {
  const least = minus(decimal(reference.low), decimal(own.high));
  const most = minus(decimal(reference.high), decimal(own.low));
  let low = cost.low <= 0 && sign(most) >= 0 ? 0 : Infinity;
  if (cost.low > 0 && sign(most) > 0) low = toNumber(over(decimal(cost.low), most));
  if (cost.high <= 0 && sign(least) >= 0) return [low, 0];
  return [low, sign(least) > 0 ? toNumber(over(decimal(cost.high), least)) : Infinity];
}

function outcome(name, cost, saving, low, high, least) {
  if (name === "never") return { case: name, ratio: null, whole: null, low, high: Infinity };
  if (name === "always") return { case: name, ratio: 0, whole: least, low: 0, high };
  const quotient = over(cost, saving);
  const best = toNumber(quotient);
  return {
    case: name,
    ratio: best,
    whole: Math.max(1, ceiling(quotient)),
    low: Math.min(low, best),
    high: Math.max(high, best),
  };
}

// Whether the case is the same for every value inside the intervals.
export function resolved(even) {
  if (even.case === "always") return even.high === 0;
  return even.case === "finite" ? Number.isFinite(even.high) : !Number.isFinite(even.low);
}

// ---- the frontier: points {name, cost, quality, parts?}; parts are the cost by its scales

export function pareto(points, scales = {}) {
  if (new Set(points.map((point) => point.name)).size < points.length) throw new RangeError("two points have one name");
  const ordered = [...points].sort(byCost);
  return points.map((point) => {
    const better = ordered.filter((other) => dominates(other, point));
    const clear = better.filter((other) => surely(other, point, scales));
    return {
      name: point.name,
      dominatedBy: clear.map((other) => other.name),
      ties: better.filter((other) => !clear.includes(other)).map((other) => other.name),
    };
  });
}

// Name -> "dominated", "tie" or "frontier", as `pareto` without parts says, without looking at every pair.
export function places(points) {
  const found = new Map();
  const ordered = [...points].sort(byCost); // those by either end are nearly so
  const dearer = [...ordered].sort((a, b) => a.cost.low - b.cost.low);
  const paid = [...ordered].sort((a, b) => a.cost.high - b.cost.high);
  let [strictly, evenly, at, upTo] = [-Infinity, -Infinity, 0, 0];
  for (const point of dearer) {
    for (; at < paid.length && paid[at].cost.high < point.cost.low; at += 1) strictly = Math.max(strictly, paid[at].quality.low);
    for (; upTo < paid.length && paid[upTo].cost.high <= point.cost.low; upTo += 1) evenly = Math.max(evenly, paid[upTo].quality.low);
    if (strictly >= point.quality.high || evenly > point.quality.high) found.set(point.name, "dominated");
  }
  let [cheaper, equal, cost] = [-Infinity, -Infinity, NaN];
  for (const point of ordered) {
    if (point.cost.best !== cost) [cheaper, equal, cost] = [Math.max(cheaper, equal), -Infinity, point.cost.best];
    const beaten = cheaper >= point.quality.best || equal > point.quality.best;
    equal = Math.max(equal, point.quality.best);
    if (!found.has(point.name)) found.set(point.name, beaten ? "tie" : "frontier");
  }
  return found;
}

const byCost = (a, b) => a.cost.best - b.cost.best || b.quality.best - a.quality.best;

function dominates(one, other) {
  const noWorse = one.cost.best <= other.cost.best && one.quality.best >= other.quality.best;
  return noWorse && (one.cost.best !== other.cost.best || one.quality.best !== other.quality.best);
}

function surely(one, other, scales) {
  let noDearer = one.cost.high <= other.cost.low;
  let cheaper = one.cost.high < other.cost.low;
  const share = one.parts && other.parts ? ratio(one.parts, other.parts, scales) : null;
  if (share) [noDearer, cheaper] = [share.high <= 1, share.high < 1];
  const noWorse = one.quality.low >= other.quality.high;
  return noDearer && noWorse && (cheaper || one.quality.low > other.quality.high);
}

// Names on the frontier by rising cost.
export function frontierOf(points, standings) {
  const on = new Set(standings.filter((s) => !s.dominatedBy.length && !s.ties.length).map((s) => s.name));
  return [...points].sort(byCost).filter((point) => on.has(point.name)).map((point) => point.name);
}
