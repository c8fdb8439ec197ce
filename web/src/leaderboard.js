// The index of the leaderboard: rows, the reader's choices, the frontier of a class, two rows side by side.

import * as sums from "./arithmetic.js";
import { SHAPE_NAMES, key, plane } from "./chart.js";
import { controls } from "./controls.js";
import { h, put, whenSized } from "./dom.js";
import * as words from "./format.js";
import { table } from "./table.js";

const { rows: all, scales, levels, taught, protocol, methods: METHODS } = window.KIT_INDEX;
const factors = window.KIT_FACTORS;
const methodOf = (row) => (METHODS[row.method] ? row.method : "other");
const DENOMINATORS = { reference: "reference tokens (declared)", trained: "trained tokens", processed: "processed tokens", positions: "positions" };
const interval = (ends) => (ends ? { best: ends[0], low: ends[1], high: ends[2] ?? Infinity } : null);

const classes = [...new Map(all.map((row) => [row.class, row.class_text])).entries()];
const ofClass = new Map(classes.map(([name]) => [name, []]));
for (const row of all) ofClass.get(row.class).push(row);
const sizeOf = (name) => ofClass.get(name).length;
const rankedOf = new Map([...ofClass].map(([name, rows]) => [name, rows.filter((row) => row.rank !== null).length]));
const ranked = (name) => rankedOf.get(name);
classes.sort(([a], [b]) => ranked(b) - ranked(a) || sizeOf(b) - sizeOf(a));
const choices = (name) => [["", "all"], ...[...new Set(all.map((row) => row[name]))].sort().map((value) => [value, value])];

const panel = controls(
  [
    { key: "pue", label: "PUE (building over machines)", kind: "number", initial: 1, min: 1, max: 10, step: 0.01 },
    { key: "puefrom", label: "… or a published PUE", kind: "select", initial: "", options: [["", "as typed"], ...factors.pue.map(([id, name, year, value, kind]) => [id, `${name}, ${year}: ${value} (${kind})`])] },
    { key: "grid", label: "Grid, for CO2e", kind: "select", initial: "", options: [["", "none"], ...factors.grid.map(([id, name, year, value]) => [id, `${name}, ${year}: ${value.toFixed(0)} g/kWh`])] },
    { key: "boundary", label: "Boundary", kind: "select", initial: "all", options: [["all", "everything measured (GPU + CPU + DRAM)"], ["gpu", "GPU alone"]] },
    { key: "n", label: "Students that share the teacher's output, N:", kind: "range", initial: 1, min: 1, max: 50, step: 1 },
    { key: "per", label: "Joules for each of", kind: "select", initial: "reference", options: Object.entries(DENOMINATORS) },
    { key: "jref", label: "J per served token, direct", kind: "number", initial: "", min: 0, placeholder: "not measured" },
    { key: "jstudent", label: "J per served token, distilled", kind: "number", initial: "", min: 0, placeholder: "not measured" },
    { key: "class", label: "Comparability class", kind: "select", initial: classes[0]?.[0] ?? "all", options: [...classes.map(([name, text]) => [name, `${text} (${sizeOf(name)} rows, ${ranked(name)} ranked)`]), ["all", "all classes: no ranking across them"]] },
    { key: "level", label: "Level", kind: "select", initial: "", options: [["", "all"], ...levels.map(({ name }) => [name, name])] },
    { key: "method", label: "Method", kind: "select", initial: "", options: [["", "all"], ...[...new Set(all.map(methodOf))].map((name) => [name, METHODS[name]])] },
    { key: "lab", label: "Laboratory", kind: "select", initial: "", options: choices("lab") },
    { key: "a", label: "Compare this row …", kind: "select", initial: "", options: [["", "none"], ...all.map((row) => [row.key, `${row.title} (${row.lab})`])] },
    { key: "b", label: "… with this one", kind: "select", initial: "", options: [["", "none"], ...all.map((row) => [row.key, `${row.title} (${row.lab})`])] },
  ],
  redraw,
);
const { state } = panel;
let pue = 1;
let gridFactor = null;
let hash = "";

// ---- what follows from the choices

// The row's energy in the building, the teacher's output shared by N; null where a part is unknown.
const energyOf = (row) => energies.get(row);
const energies = new Map(); // of the choices as they are

function chargedTo(row) {
  const found = row.boundaries[state.boundary];
  if (!found?.own) return null;
  // From end to end a run is known better than its stages are together.
  if (found.whole && (state.n === 1 || !found.teacher)) return sums.scaled(interval(found.whole), pue);
  const parts = [interval(found.own)];
  if (found.teacher) parts.push(sums.scaled(interval(found.teacher), 1 / state.n));
  return sums.scaled(sums.total(parts), pue);
}

// Direct training that N* is formed against: of the same class and student, of the same laboratory where there is one.
const baselines = new Map();
for (const row of all) {
  if (!taught.includes(row.method) || !row.student) continue;
  const fit = ofClass.get(row.class).filter((one) => one.student === row.student && !taught.includes(one.method) && one.status === "active");
  baselines.set(row.key, fit.find((one) => one.lab === row.lab) ?? fit[0] ?? null);
}

const evens = new Map(); // reuse and PUE do not move N*
function evenOf(row) {
  const place = `${state.boundary} ${row.key}`;
  if (!evens.has(place)) evens.set(place, breakEvenOf(row));
  return evens.get(place);
}

function breakEvenOf(row) {
  const base = baselines.get(row.key);
  const teacher = interval(row.boundaries[state.boundary]?.teacher);
  const [own, direct] = [row.students[state.boundary], base?.students[state.boundary]];
  if (!base || !teacher || !own || !direct) return null;
  const even = sums.breakEven(sums.alone(teacher), direct, own, scales);
  // Single runs of equal work: nothing here tells their difference from chance.
  const alike = row.tokens.positions && row.tokens.positions === base.tokens.positions;
  return alike ? { ...even, withheld: "equal work, and run-to-run spread is not known" } : even;
}

function servingOf(row) {
  const base = baselines.get(row.key);
  if (!base || state.jref === "" || state.jstudent === "") return null;
  const [ours, theirs] = [energyOf(row), energyOf(base)];
  if (!ours || !theirs) return null;
  const extra = { best: ours.best - theirs.best, low: ours.low - theirs.high, high: ours.high - theirs.low };
  return sums.servingBreakEven(extra, ...[state.jref, state.jstudent].map((j) => sums.scaled(sums.exact(Number(j)), pue)));
}

const evenText = (even) => (even ? words.bracketed(words.breakEvenText(even, sums.resolved(even))) : "–");
const wh = (energy) => (energy ? words.spread(sums.scaled(energy, 1 / 3600), "Wh") : "unknown");
const rank = (row) => (row.rank === null ? "unranked" : row.rank === row.rank_to ? `${row.rank} of ${row.of}` : `${row.rank} to ${row.rank_to} of ${row.of}, a tie`);
const co2e = (row) => (gridFactor && energyOf(row) ? sums.co2eKg(energyOf(row), gridFactor[3]) : null);
const links = new Map();
function link(row) {
  if (!links.has(row)) links.set(row, h("a", null, row.title || row.key));
  const found = links.get(row);
  found.setAttribute("href", `row.html?${row.key}${hash}`);
  return found;
}

const qualities = new Map(all.map((row) => [row, interval(row.q)]));

const kept = (row) =>
  (state.class === "all" || row.class === state.class) &&
  (!state.level || row.level === state.level) &&
  (!state.method || methodOf(row) === state.method) &&
  (!state.lab || row.lab === state.lab);

const columns = [
  { key: "title", label: "row", sort: (row) => row.title, text: link },
  { key: "lab", fixed: true, label: "laboratory", sort: (row) => row.lab, text: (row) => row.lab },
  { key: "level", fixed: true, label: "level", about: "how far the figures have been checked", sort: (row) => levels.findIndex(({ name }) => name === row.level), text: (row) => row.level },
  { key: "rank", fixed: true, label: "rank", about: "by energy at N = 1, everything measured, inside the class; overlapping intervals are a tie", sort: (row) => row.rank, text: (row) => (row.rank === null ? h("span", { title: row.unranked.join("; ") }, "unranked") : rank(row)) },
  { key: "energy", label: "energy", numeric: true, wraps: true, about: "with PUE, boundary and reuse as chosen", sort: (row) => energyOf(row)?.best, text: (row) => words.bracketed(wh(energyOf(row))) },
  { key: "q", fixed: true, label: "Q", numeric: true, wraps: true, about: "share of the teacher's quality kept", sort: (row) => row.q?.[0], text: (row) => (row.q ? words.bracketed(words.quality(qualities.get(row))) : "–") },
  { key: "token", label: "J/token", numeric: true, about: "by the denominator chosen", sort: (row) => sums.perToken(energyOf(row), row.tokens[state.per])?.best, text: (row) => words.plusMinus(sums.perToken(energyOf(row), row.tokens[state.per]), "J") },
  { key: "co2e", label: "CO2e", numeric: true, sort: (row) => co2e(row)?.best, text: (row) => (co2e(row) ? words.plusMinus(sums.scaled(co2e(row), 1000), "g") : "–") },
  { key: "even", label: "N*", numeric: true, wraps: true, about: "reuses until the teacher has paid, against direct training of the same student, by training alone", sort: (row) => evenOf(row)?.ratio, text: (row) => evenText(evenOf(row)) },
  { key: "serving", label: "T*", numeric: true, wraps: true, about: "served tokens until it has paid", sort: (row) => servingOf(row)?.ratio, text: (row) => evenText(servingOf(row)) },
  { key: "method", fixed: true, label: "method", sort: methodOf, text: (row) => METHODS[methodOf(row)] },
  { key: "student", fixed: true, label: "student", sort: (row) => row.student, text: (row) => row.student || "–" },
  { key: "hardware", fixed: true, label: "hardware", sort: (row) => row.hardware, text: (row) => row.hardware || "–" },
];

// ---- sections

const tableHolder = h("div");
let list = null;
let listed = "";
function drawTable() {
  const wanted = [state.class, state.level, state.method, state.lab].join("\n");
  if (wanted !== listed || !list) {
    const rows = all.filter(kept);
    listed = wanted;
    const other = state.class === "all" ? 0 : all.filter((row) => row.class !== state.class).length;
    const hidden = other ? `; ${other} of other classes not shown` : "";
    list = table({ caption: `${rows.length} rows, with the choices above${hidden}`, columns, rows, sort: { key: "rank", down: false } });
    put(tableHolder, list.element);
  } else list.update();
}

const chartHolder = h("div", { class: "wide" });
const canvas = h("canvas", { "aria-hidden": "true" });
const STANDING = { dominated: "another row is better beyond doubt", tie: "a tie with others", frontier: "on the frontier" };
let width = 0;
let seen = false;
let stale = true;
// Only where it can be seen.
new IntersectionObserver((entries) => {
  seen = entries.at(-1).isIntersecting;
  if (seen && stale && width) drawChart();
}).observe(chartHolder);
function drawChart() {
  stale = false;
  const rows = all.filter((row) => kept(row) && row.q && energyOf(row));
  if (!rows.length || state.class === "all") {
    put(chartHolder, h("p", { class: "note" }, state.class !== "all" ? "No row here has both an energy and a Q." : "Choose a class: rows of different classes stand in no common picture."));
    return;
  }
  const labs = [...new Set(rows.map((row) => row.level))];
  const shapes = new Map(labs.map((name, place) => [name, SHAPE_NAMES[place % SHAPE_NAMES.length]]));
  const points = rows.map((row) => {
    const x = energyOf(row);
    const y = qualities.get(row);
    return { row, name: row.key, x, y, cost: x, quality: y, role: methodOf(row), shape: shapes.get(row.level), state: "unknown" };
  });
  const standings = sums.places(points.filter((point) => point.row.rank !== null));
  for (const point of points) point.state = standings.get(point.name) ?? point.state;
  put(
    chartHolder,
    plane({
      width,
      canvas,
      unit: "J",
      log: true,
      label: `energy and quality of ${rows.length} rows; the table below has the same figures`,
      xTitle: `${state.boundary === "gpu" ? "GPU energy" : "energy"}, teacher ${state.n > 1 ? `shared by ${state.n}` : "in full"}${pue > 1 ? `, PUE ${pue}` : ""}`,
      yTitle: "relative quality Q",
      points,
      words: ({ row, x, state: found }) => `${row.title} (${row.lab}): ${words.spread(x, "J")}, Q ${row.q[0].toFixed(2)}; ${STANDING[found] ?? `unranked: ${row.unranked.join("; ")}`}`,
    }),
    key([
      ...[...new Set(rows.map(methodOf))].map((name) => ({ words: METHODS[name], className: `regime-${name}`, shape: "circle" })),
      ...labs.map((name, place) => ({ words: name, className: "regime-other", shape: SHAPE_NAMES[place % SHAPE_NAMES.length] })),
    ]),
  );
}
whenSized(chartHolder, (found) => {
  width = found;
  stale = true;
  if (seen) drawChart();
});

const compared = h("div", { "aria-live": "polite" });
function drawComparison() {
  const [a, b] = [state.a, state.b].map((name) => all.find((row) => row.key === name));
  if (!a || !b || a === b) {
    put(compared, h("p", { class: "note" }, "Choose two rows above."));
    return;
  }
  const [ea, eb] = [energyOf(a), energyOf(b)];
  const verdict = () => {
    if (a.class !== b.class) return "of different classes: no verdict";
    if (a.rank === null || b.rank === null) return "one of them is not ranked: no verdict";
    if (!ea || !eb || (ea.low <= eb.high && eb.low <= ea.high)) return "a tie in energy: the intervals overlap";
    return `${ea.best < eb.best ? a.title : b.title} needs less energy`;
  };
  const line = (name, of) => ({ name, a: of(a), b: of(b) });
  const lines = [
    ...columns.slice(1).map((column) => line(column.label, (row) => (column.key === "rank" ? rank(row) : column.text(row)))),
    line("class", (row) => row.class_text),
    line("shares an artifact with", (row) => row.shares?.join(", ") || "nobody here"),
  ];
  put(
    compared,
    h("p", { class: "sentence" }, `${a.title} and ${b.title}: ${verdict()}.`),
    table({
      caption: "Two rows side by side",
      rows: lines,
      columns: [
        { key: "name", label: "figure", text: (one) => one.name },
        { key: "a", label: a.title, text: (one) => one.a },
        { key: "b", label: b.title, text: (one) => one.b },
      ],
    }).element,
  );
}

const note = h("p", { class: "note", "aria-live": "polite" });
function drawNote() {
  const factor = gridFactor;
  const published = factors.pue.find(([id]) => id === state.puefrom);
  put(
    note,
    "Joules in a log are those of the machines. Ranks are by energy at N = 1 and do not move with your choices. ",
    published ? `PUE ${published[3]}: ${published[1]}, ${published[2]}, ${published[4]}; ${published[5]}. ` : "",
    factor ? `Grid: ${factor[1]} ${factor[2]}, ${factor[3]} g CO2e/kWh, ${factor[4]} (${factor[0]}); ${factors.sources[factor[5]]}. ` : "",
  );
}

function redraw() {
  pue = factors.pue.find(([id]) => id === state.puefrom)?.[3] ?? state.pue;
  gridFactor = factors.grid.find(([id]) => id === state.grid) ?? null;
  hash = panel.hash();
  for (const row of all) energies.set(row, chargedTo(row));
  drawNote();
  drawTable();
  stale = true;
  if (width && seen) drawChart();
  drawComparison();
}

const copy = h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(location.href) }, "Copy a link to this view");
const section = (id, title, ...children) => h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
put(
  document.getElementById("app"),
  h("header", null, h("h1", null, "Energy of distillation: the leaderboard"), h("p", { class: "sentence" }, `${all.length} rows of ${new Set(all.map((row) => row.lab)).size} laboratories, by protocol ${protocol}. Every ranked figure was computed again from raw samples.`)),
  h(
    "main",
    null,
    h("section", { "aria-label": "Choices of the reader" }, panel.element, note, h("div", { class: "buttons" }, copy)),
    section("chart", "Energy and quality", chartHolder),
    section("rows", "Rows", tableHolder),
    section("compare", "Side by side", compared),
    section("levels", "Levels", h("dl", { class: "facts" }, levels.map(({ name, doc, ranked: may }) => [h("dt", null, name), h("dd", null, `${doc}${may ? "" : " Never ranked."}`)]))),
    section("data", "Data", h("p", null, ...["csv", "json", "parquet"].flatMap((kind) => [h("a", { href: `index.${kind}`, download: true }, `index.${kind}`), " "]), "Submitted data: CC BY 4.0.")),
  ),
);
redraw();
