// Numbers for people, with no more digits than their interval allows; the same rules as harness/accounting/rounding.py.

const MOST_DIGITS = 4;
const PREFIXES = [
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
  [1e-3, "m"],
  [1e-6, "µ"],
];

const exponent = (value) => (value ? Math.floor(Math.log10(Math.abs(value))) : 0);

// As Python's round: of the exact value, halves to even.
function rounded(value, places) {
  const step = 10 ** Math.max(0, -places);
  const size = Math.abs(value) / step;
  const kept = Math.min(60, Math.max(0, places));
  if (!Number.isInteger(size * 2 ** (kept + 1))) return Math.sign(value) * Number(size.toFixed(kept)) * step; // no half
  const exact = size.toFixed(kept + 40);
  const cut = exact.slice(0, -40).replace(/\.$/, "");
  const down = /^50*$/.test(exact.slice(-40)) && "02468".includes(cut.at(-1));
  return Math.sign(value) * (down ? Number(cut) : Number(size.toFixed(kept))) * step;
}

function decimals(best, half, most) {
  let ceiling = most - 1 - exponent(best);
  if (Math.abs(rounded(best, ceiling)) >= 10 ** (exponent(best) + 1)) ceiling -= 1; // 9.9999 is 10.00
  if (!(half > 0)) return ceiling;
  if (!Number.isFinite(half)) return -exponent(best);
  const power = exponent(half);
  return Math.min(ceiling, half / 10 ** power >= 9.95 ? -power : 1 - power);
}

function endingAt(value, places) {
  const near = rounded(value, places);
  const text = near.toFixed(Math.max(0, places));
  return Math.abs(near) >= 10_000 ? text.replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f") : text;
}

export function significant(best, low = null, high = null, most = MOST_DIGITS) {
  if (best === 0) return "0";
  const half = low === null || high === null ? 0 : Math.max(best - low, high - best);
  let places = decimals(best, half, most);
  if (rounded(best, places) === 0) places = -exponent(best);
  return endingAt(best, places);
}

// A value with a unit and a decimal prefix, such as 2.523 kJ.
export function quantity(best, unit, low = null, high = null) {
  if (best === null || best === undefined) return "unknown";
  if (best === 0) return `0 ${unit}`;
  const size = Math.max(Math.abs(best), 1e-6);
  let at = PREFIXES.findIndex(([factor]) => size >= factor);
  if (at < 0) at = PREFIXES.length - 1;
  const text = (place) => {
    const [factor, prefix] = PREFIXES[place];
    const ends = low === null || high === null ? [null, null] : [low / factor, high / factor];
    return `${significant(best / factor, ...ends)} ${prefix}`;
  };
  let found = text(at);
  if (at && /^-?1000[ .]/.test(found)) found = text(at - 1);
  return found + unit;
}

// A label of an axis: round numbers need no zeros.
export const tick = (value, unit) => quantity(value, unit).replace(/\.(\d*?)0+ /, (all, kept) => (kept ? `.${kept} ` : " "));

// Both ends, with the digits that the interval leaves its middle.
export function ends({ best, low, high }, unit) {
  const half = Math.max(best - low, high - best);
  const end = (value) => (Number.isFinite(half) ? quantity(value, unit, value - half, value + half) : quantity(value, unit));
  return `${end(low)} to ${Number.isFinite(high) ? end(high) : "no end"}`;
}

// An interval as "170 J (0 J to 340 J)".
export function spread(interval, unit) {
  if (!interval) return "unknown";
  const { best, low, high } = interval;
  const text = quantity(best, unit, low, high);
  if (low === null || high === null || low === high) return text;
  return `${text} (${ends(interval, unit)})`;
}

export const plusMinus = (interval, unit) => (interval ? quantity(interval.best, unit, interval.low, interval.high) : "unknown");

// Q, a share: no prefix of a unit.
export const quality = ({ best, low, high }) => best.toFixed(2) + (low < high ? ` (${low.toFixed(2)} to ${high.toFixed(2)})` : "");

// A cell of several words: its lines end before a bracket or between two figures, never before a unit.
export const unbroken = (text) => text.replaceAll(" ", "\u00a0");
export const bracketed = (text) => text.replace(/\(.*?\)/g, unbroken);

const short = (value) => {
  if (value === 0) return "0";
  const places = Math.max(0, Math.min(2, 2 - exponent(value)));
  return value < 1e5 ? value.toFixed(places) : value.toPrecision(3).replace(/e\+?/, "e+");
};

export function breakEvenText(even, resolved) {
  if (even.case === "undefined") return "not defined";
  if (even.withheld) return `no verdict: ${even.withheld}`;
  if (even.case === "always") return resolved ? "pays at once" : "pays at once, not resolved";
  if (even.case === "never") {
    return resolved ? "never" : `not resolved: never by the best values, from ${short(even.low)} up`;
  }
  const best = short(even.ratio);
  if (!resolved) return `${best}, not resolved (${short(even.low)} to never)`;
  return even.low === even.high ? best : `${best} (${short(even.low)} to ${short(even.high)})`;
}

export function duration(us) {
  const seconds = us / 1e6;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const [minutes, rest] = [Math.floor(Math.round(seconds) / 60), Math.round(seconds) % 60];
  if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export const percent = (share) => (share === null || share === undefined ? "" : `${(100 * share).toFixed(1)} %`);

export const bytes = (count) => quantity(count, "B");

export const whole = (count) =>
  count === null || count === undefined ? "unknown" : String(count).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
