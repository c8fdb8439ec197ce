// The page of `kit report --html`: one run or several, read from the JSON in the page.

import * as sums from "./arithmetic.js";
import { SHAPE_NAMES, bars, graph, key, plane } from "./chart.js";
import { controls } from "./controls.js";
import { h, put, whenSized } from "./dom.js";
import * as words from "./format.js";
import { table } from "./table.js";
import { traces } from "./trace.js";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, pairs, scales, factors, components, methods: METHODS, roles: ROLES } = data;
const many = runs.length > 1;
const { chosen } = data;
if (chosen.grid && !factors.grid.some(([id]) => id === chosen.grid[0])) {
  factors.grid.unshift([...chosen.grid.slice(0, 5), factors.sources.push(chosen.grid[5]) - 1]);
}
const DENOMINATORS = {
  reference: "reference tokens (declared)",
  trained: "trained tokens (unique labels)",
  processed: "processed tokens",
  positions: "token positions",
};
const methodOf = (run) => (METHODS[run.report.method] ? run.report.method : "other");
// From small to large, so that a size has the shape that it has in the figures for a paper.
const parameters = (size) => parseFloat(size) * (size.endsWith("b") ? 1000 : 1) || 0;
const sizes = [...new Set(runs.map((run) => sizeOf(run)))].filter(Boolean).sort((a, b) => parameters(a) - parameters(b));

// The last word of a name such as kd-7b: runs of one student share a shape.
function sizeOf(run) {
  return /(\d+(?:\.\d+)?[bm])\b/i.exec(run.label)?.[1]?.toLowerCase() ?? "";
}
const shapeOf = (run) => SHAPE_NAMES[Math.max(0, sizes.indexOf(sizeOf(run))) % SHAPE_NAMES.length];

// ---- what the reader chose, and what follows

function denominators() {
  const known = Object.keys(DENOMINATORS).filter((name) => runs.some((run) => run.report.tokens[name]));
  return known.length ? known : ["reference"];
}

const asServed = runs.some((run) => run.served) ? "as measured" : "not measured";
const first = runs.find((run) => run.report.tokens.reference) ? "reference" : denominators()[0];
const panel = controls(
  [
    { key: "pue", label: "PUE (building over machines)", kind: "number", initial: chosen.pue ?? 1, min: 1, max: 10, step: 0.01 },
    {
      key: "puefrom",
      label: "… or a published PUE",
      kind: "select",
      initial: "",
      options: [["", "as typed"], ...factors.pue.map(([id, name, year, value, kind]) => [id, `${name}, ${year}: ${value} (${kind})`])],
    },
    {
      key: "grid",
      label: "Grid, for CO2e",
      kind: "select",
      initial: chosen.grid?.[0] ?? "",
      options: [["", "none"], ...factors.grid.map(([id, name, year, value]) => [id, `${name}, ${year}: ${value.toFixed(0)} g/kWh`])],
    },
    { key: "n", label: "Students that share the teacher's output, N:", kind: "range", initial: chosen.reuses ?? 1, min: 1, max: Math.max(50, chosen.reuses ?? 1), step: 1 },
    {
      key: "boundary",
      label: "Boundary",
      kind: "select",
      initial: "all",
      options: [
        ["all", `everything measured (${[...new Set(runs.flatMap((run) => run.parts))].map((part) => components[part]).join(" + ") || "nothing"})`],
        ["gpu", "GPU alone"],
      ],
    },
    { key: "per", label: "Joules for each of", kind: "select", initial: first, options: denominators().map((name) => [name, DENOMINATORS[name]]) },
    ...(pairs.length
      ? [
          { key: "jref", label: "J per served token, reference", kind: "number", initial: "", min: 0, placeholder: asServed },
          { key: "jstudent", label: "J per served token, student", kind: "number", initial: "", min: 0, placeholder: asServed },
        ]
      : []),
    ...(many ? [{ key: "axis", label: "Energy axis", kind: "select", initial: "log", options: [["log", "logarithmic"], ["linear", "linear"]] }] : []),
    ...(many ? [{ key: "run", label: "Run shown in detail", kind: "select", initial: runs[0].id, options: runs.map((run) => [run.id, run.label]) }] : []),
  ],
  redraw,
);
const { state } = panel;

const gridFactor = () => factors.grid.find(([id]) => id === state.grid) ?? null;
const pue = () => factors.pue.find(([id]) => id === state.puefrom)?.[3] ?? state.pue;

// A run's energy in the building, with N students sharing the teacher's output; null where a part is unknown.
function energyOf(run) {
  const { own, teacher, whole, why } = run.energy[state.boundary];
  if (!own) return { parts: null, interval: null, why };
  // From end to end a run is known better than its stages are together.
  const charged = teacher && state.n > 1 ? sums.added([own, sums.times(teacher, 1 / state.n)]) : whole;
  const parts = sums.times(charged, pue());
  return { parts, interval: sums.stated(parts, scales), why: null };
}

function evenOf(number) {
  const pair = pairs.find((one) => one.run === number && !one.differences);
  const parts = pair?.boundary[state.boundary];
  if (!parts) return { pair: pairs.find((one) => one.run === number) ?? null, even: null };
  const even = sums.breakEven(parts.teacher, parts.direct, parts.distilled, scales);
  return { pair, even: { ...even, withheld: parts.withheld } };
}

// T*: tokens until what this run cost more than direct training has been saved in serving; by the joules that the
// reader typed, else by those that serve stages of both runs measured (of all that was metered).
function servingOf(number) {
  const pair = pairs.find((one) => one.run === number && !one.differences);
  if (!pair) return null;
  const [ours, theirs] = [runs[number], runs[pair.direct]].map((run) => energyOf(run).parts);
  if (!ours || !theirs) return null;
  if (state.jref !== "" && state.jstudent !== "") {
    const extra = sums.difference(ours, theirs, scales);
    return sums.servingBreakEven(extra, ...[state.jref, state.jstudent].map((j) => sums.scaled(sums.exact(Number(j)), pue())));
  }
  if (!pair.served || state.boundary !== "all" || state.jref !== "" || state.jstudent !== "") return null;
  const served = [pair.direct, number].map((place) => sums.times(runs[place].served, pue()));
  return { ...sums.servingBreakEven([ours, theirs], ...served, scales), withheld: pair.serving_withheld };
}
const typed = () => state.jref !== "" && state.jstudent !== "";

const evenText = (even) => (even ? words.breakEvenText(even, sums.resolved(even)) : "not defined");

function figuresOf(run, number) {
  const { parts, interval, why } = energyOf(run);
  const factor = gridFactor();
  const count = run.report.tokens[state.per];
  return {
    number,
    run,
    parts,
    energy: interval,
    why,
    carbon: interval && factor ? sums.co2eKg(interval, factor[3]) : null,
    perToken: sums.perToken(interval, count),
    quality: run.quality,
    ...evenOf(number),
    serving: servingOf(number),
  };
}

const endsText = (interval) => words.ends(interval, "J").split(" to ").map(words.unbroken).join(" to ");
const estimated = (run) => (run.report.labels ?? []).includes("cpu_estimated");
const mark = (run) => (estimated(run) ? "~" : "");

// ---- sections

const heading = many ? `Energy of ${runs.length} runs` : `Energy of ${runs[0].label}`;
const sections = [];
const section = (id, title, ...children) => {
  const element = h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), children);
  sections.push({ id, title, element });
  return element;
};

const drawings = []; // redrawn when a control or the width changes
const responsive = (draw) => {
  const holder = h("div", { class: "wide" });
  let width = 0;
  const again = () => width && put(holder, draw(width));
  whenSized(holder, (found) => {
    width = found;
    again();
  });
  drawings.push(again);
  return holder;
};

let current = runs.map(figuresOf);

const summary = h("dl", { class: "figures" });
function drawSummary() {
  const shown = current[many ? runs.findIndex((run) => run.id === state.run) : 0];
  const { run, energy, carbon, perToken, even, pair, serving } = shown;
  const facts = [
    [`Energy${pue() > 1 ? `, with PUE ${pue()}` : ""}`, energy ? mark(run) + words.spread(energy, "J") : `unknown: ${shown.why}`],
    energy && ["In watt-hours", mark(run) + words.spread(sums.scaled(energy, 1 / 3600), "Wh")],
    ["CO2e, location-based", carbon ? mark(run) + words.spread(sums.scaled(carbon, 1000), "g") : "choose a grid"],
    [`Per token: ${DENOMINATORS[state.per]}`, perToken ? mark(run) + words.spread(perToken, "J") : "unknown"],
    run.quality && ["Q, share of the teacher's quality kept", words.quality(run.quality)],
    run.taught && many && ["N*, reuses until the teacher has paid, by training alone", even ? evenText(even) : pair?.differences ? "no run here to compare it with" : "not defined"],
    run.served && ["Per served token, steady part", mark(run) + words.spread(sums.scaled(sums.stated(run.served, scales), pue()), "J")],
    run.taught && many && [`T*, served tokens until it has paid${serving ? (typed() ? ", by the joules given" : ", as measured") : ""}`, serving ? evenText(serving) : pair?.unserved ? `not defined: ${pair.unserved}` : "not measured: give J per served token"],
  ];
  put(summary, facts.filter(Boolean).map(([name, value]) => h("div", null, h("dt", { text: name }), h("dd", { text: value }))));
}

const factorNote = h("p", { class: "note", "aria-live": "polite" });
function drawFactorNote() {
  const factor = gridFactor();
  const published = factors.pue.find(([id]) => id === state.puefrom);
  put(
    factorNote,
    h("span", null, "Joules in a log are those of the machines. "),
    published ? `PUE ${published[3]}: ${published[1]}, ${published[2]}, ${published[4]}; ${published[5]}. ` : "",
    factor ? `Grid: ${factor[1]} ${factor[2]}, ${factor[3]} g CO2e/kWh, ${factor[4]} (${factor[0]}); ${factors.sources[factor[5]]}. ` : "",
    state.n > 1 ? `A teacher's energy is divided by ${state.n}.` : "A teacher's energy is charged in full.",
  );
}

// -- several runs: the plane, the table

function drawComparison() {
  const placed = () => current.filter((one) => one.energy && one.quality);
  const stateOf = () => {
    const points = placed().map((one) => ({
      name: one.run.id,
      cost: one.energy,
      quality: one.quality,
      parts: one.parts,
    }));
    return new Map(sums.pareto(points, scales).map((standing) => [standing.name, standing]));
  };
  let standings = stateOf();
  // Names of runs; the table's cells hold the first of many, the drawing's words all.
  const named = (ids, most) => {
    const names = ids.map((id) => runs.find((run) => run.id === id).label);
    return names.length > most ? `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more` : names.join(", ");
  };
  const standing = (one) => {
    const found = standings.get(one.run.id);
    if (!found) return ["unknown", one.quality ? "energy unknown" : "no Q"];
    if (found.dominatedBy.length) return ["dominated", "beaten by ", found.dominatedBy];
    if (found.ties.length) return ["tie", "tie with ", found.ties];
    return ["frontier", "on the frontier"];
  };
  const standingText = (one, most) => {
    const [, said, others = []] = standing(one);
    return said + named(others, most);
  };
  // What all runs share, such as an estimate's scale, moves all points together: bars hold what differs from the
  // cheapest run.
  const apart = (one) => {
    const cheapest = placed().reduce((a, b) => (b.energy.best < a.energy.best ? b : a));
    const times = one === cheapest ? null : sums.ratio(one.parts, cheapest.parts, scales);
    return times ? sums.scaled(times, cheapest.energy.best) : sums.at(one.parts);
  };
  const canvas = h("canvas", { "aria-hidden": "true" });
  const chart = responsive((width) => {
    const points = placed();
    if (!points.length) return h("p", { class: "note" }, "No run here has both an energy and a Q.");
    const axis = state.boundary === "gpu" ? "GPU energy" : "energy";
    return plane({
      width,
      canvas,
      unit: "J",
      log: state.axis === "log",
      label: `${axis} and quality of ${points.length} runs; the table below has the same figures`,
      xTitle: `${axis}, teacher ${state.n > 1 ? `shared by ${state.n}` : "in full"}${pue() > 1 ? `, PUE ${pue()}` : ""}`,
      yTitle: "relative quality Q",
      points: points.map((one) => ({
        x: apart(one),
        y: one.quality,
        role: methodOf(one.run),
        shape: shapeOf(one.run),
        state: standing(one)[0],
        words: `${one.run.label}: ${words.spread(one.energy, "J")}, Q ${one.quality.best.toFixed(2)}; ${standingText(one, Infinity)}`,
      })),
    });
  });
  const used = Object.keys(METHODS).filter((method) => runs.some((run) => methodOf(run) === method));
  const legend = key([
    ...used.map((method) => ({ words: METHODS[method], className: `regime-${method}`, shape: "circle" })),
    ...sizes.map((size, place) => ({ words: size.toUpperCase(), className: "regime-other", shape: SHAPE_NAMES[place % SHAPE_NAMES.length] })),
    { words: "dominated: another run is better beyond doubt", className: "regime-other", shape: "circle", state: "dominated" },
    { words: "a tie: the intervals allow no order", className: "regime-other", shape: "circle", state: "tie" },
  ]);
  const rows = current.map((_, number) => ({
    get one() {
      return current[number];
    },
    get className() {
      return runs[number].id === state.run ? "chosen" : null;
    },
  }));
  const list = table({
    caption: "All runs, with the choices above. ~ marks an estimate.",
    rows,
    pick: ({ one }) => {
      panel.set("run", one.run.id);
      document.getElementById("stages")?.scrollIntoView();
    },
    columns: [
      { key: "name", label: "run", text: ({ one }) => one.run.label, sort: ({ one }) => one.run.label },
      { key: "method", label: "method", text: ({ one }) => METHODS[methodOf(one.run)], sort: ({ one }) => methodOf(one.run) },
      { key: "energy", label: "energy", numeric: true, about: "with PUE and reuse as chosen", sort: ({ one }) => one.energy?.best, text: ({ one }) => (one.energy ? mark(one.run) + words.plusMinus(one.energy, "J") : "unknown") },
      { key: "interval", label: "interval", numeric: true, wraps: true, text: ({ one }) => (one.energy ? endsText(one.energy) : "–") },
      { key: "carbon", label: "CO2e", numeric: true, sort: ({ one }) => one.carbon?.best, text: ({ one }) => (one.carbon ? words.plusMinus(sums.scaled(one.carbon, 1000), "g") : "–") },
      { key: "token", label: "J/token", numeric: true, about: "by the denominator chosen", sort: ({ one }) => one.perToken?.best, text: ({ one }) => (one.perToken ? mark(one.run) + words.plusMinus(one.perToken, "J") : "unknown") },
      { key: "q", label: "Q", numeric: true, wraps: true, sort: ({ one }) => one.quality?.best, text: ({ one }) => (one.quality ? words.bracketed(words.quality(one.quality)) : "–") },
      { key: "even", label: "N*", numeric: true, wraps: true, about: "reuses until the teacher has paid, by training alone", sort: ({ one }) => one.even?.ratio, text: ({ one }) => (one.even ? words.bracketed(evenText(one.even)) : "–") },
      { key: "serving", label: "T*", numeric: true, wraps: true, about: "served tokens until it has paid", sort: ({ one }) => one.serving?.ratio, text: ({ one }) => (one.serving ? words.bracketed(evenText(one.serving)) : one.run.taught ? "not measured" : "–") },
      { key: "standing", label: "standing", text: ({ one }) => standingText(one, 4) },
    ],
  });
  drawings.unshift(() => {
    standings = stateOf();
    const known = current.filter((one) => one.energy).sort((a, b) => a.energy.best - b.energy.best);
    const on = placed().filter((one) => standing(one)[0] === "frontier").sort((a, b) => a.energy.best - b.energy.best);
    const ends = [known[0], known[known.length - 1]].map((one) => one && `${one.run.label} (${mark(one.run)}${words.plusMinus(one.energy, "J")})`);
    sentence.textContent =
      (known.length ? `From ${ends[0]} to ${ends[1]}. ` : "No energy is known. ") +
      (on.length ? `On the frontier of energy and quality: ${on.map((one) => one.run.label).join(", ")}.` : "No run has both an energy and a Q.");
    list.update();
  });
  const unlike = pairs.filter((pair) => pair.differences);
  const notes = unlike.map((pair) =>
    h("li", null, `${runs[pair.run].label} and ${runs[pair.direct].label} may not be compared: ${pair.differences.join("; ")}.`),
  );
  const classes = new Set(runs.filter((run) => run.quality).map((run) => run.comparability));
  return section(
    "compare",
    "Energy and quality",
    classes.size > 1 &&
      h("p", { class: "severity-warning" }, `These runs are of ${classes.size} comparability classes: positions in this picture are no ranking across classes.`),
    chart,
    legend,
    h("p", { class: "note" }, "Bars and band hold what differs between the runs. A scale that all share, such as an estimate's, moves all points together; the table's interval holds it too."),
    list.element,
    notes.length > 0 && h("details", null, h("summary", null, "Runs without an N*, and why"), h("ul", null, notes)),
  );
}

function drawParts() {
  const chart = responsive((width) =>
    bars({
      width,
      unit: "J",
      label: "energy of each run by what it was for; the table above has the totals",
      rows: current.map((one) => {
        const roles = new Map();
        for (const stage of stagesOf(one.run)) {
          if (stage.depth || stage.serves) continue; // no training is charged for what answering took
          const joules = jouleOf(stage);
          if (joules) roles.set(stage.role, (roles.get(stage.role) ?? 0) + joules * pue());
        }
        const { teacher } = one.run.energy[state.boundary];
        const own = roles.get("teacher") ?? 0;
        if (teacher) roles.set("teacher", (sums.at(teacher).best * pue()) / state.n);
        else if (own) roles.set("teacher", own / state.n);
        const inherited = one.energy ? one.energy.best - [...roles.values()].reduce((a, b) => a + b, 0) : 0;
        if (inherited > one.energy?.best * 1e-6) roles.set("data", (roles.get("data") ?? 0) + inherited);
        return {
          label: one.run.label,
          note: one.energy ? mark(one.run) + words.quantity(one.energy.best, "J", one.energy.low, one.energy.high) : null,
          parts: Object.keys(ROLES)
            .filter((role) => roles.get(role) > 0)
            .map((role) => ({ role, value: roles.get(role), name: ROLES[role] })),
        };
      }),
    }),
  );
  const present = new Set(runs.flatMap((run) => [...stagesOf(run).map((stage) => stage.role), ...(run.report.method && run.energy.all.teacher ? ["teacher"] : []), "data"]));
  const legend = key(Object.keys(ROLES).filter((role) => present.has(role)).map((role) => ({ words: ROLES[role], className: `role-${role}` })));
  return section("parts", "What the energy was for", chart, legend);
}

// -- one run

const stagesOf = (run) => [...run.report.stages, ...(run.report.unattributed ? [run.report.unattributed] : [])];
const shownParts = () => (state.boundary === "gpu" ? ["gpu"] : ["gpu", "cpu", "dram"]);

function jouleOf(stage) {
  const known = shownParts().map((part) => stage[`${part}_energy_j`]).filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

// What a stage took, with no more digits than its interval allows; null where nothing is known.
function noteOf(stage, times = pue()) {
  const parts = shownParts().filter((part) => stage[`${part}_energy_j`] !== null && stage[`${part}_energy_j`] !== undefined);
  if (!parts.length) return null;
  const sum = (end) => times * parts.reduce((all, part) => all + (stage[`${part}_energy_j${end}`] ?? stage[`${part}_energy_j`]), 0);
  return (parts.some((part) => stage.estimated.includes(part)) ? "~" : "") + words.quantity(sum(""), "J", sum("_low"), sum("_high"));
}

function stageSection(run) {
  const chart = responsive((width) =>
    bars({
      width,
      unit: "J",
      label: `energy of each stage of ${run.label} by component; the table below has the same figures`,
      rows: stagesOf(run).map((stage) => ({
        label: `${"– ".repeat(stage.depth)}${stage.title}`,
        note: noteOf(stage),
        parts: shownParts()
          .filter((part) => stage[`${part}_energy_j`] > 0)
          .map((part) => ({ role: stage.role, part, value: stage[`${part}_energy_j`] * pue(), name: components[part] })),
      })),
    }),
  );
  const roles = [...new Set(stagesOf(run).map((stage) => stage.role))];
  const legend = key([
    ...roles.map((role) => ({ words: ROLES[role], className: `role-${role}` })),
    ...run.parts.map((part) => ({ words: components[part], className: `role-idle part-${part}` })),
  ]);
  const figure = (stage, part) => {
    const best = stage[`${part}_energy_j`];
    if (best === null || best === undefined) return "–";
    return (stage.estimated.includes(part) ? "~" : "") + words.quantity(best * pue(), "J", stage[`${part}_energy_j_low`] * pue(), stage[`${part}_energy_j_high`] * pue());
  };
  const list = table({
    caption: "Every stage. Energy is that of the machines times the PUE chosen; ~ is an estimate, – is not measured, never zero.",
    rows: stagesOf(run).map((stage) => ({ stage, className: `depth-${Math.min(2, stage.depth)}` })),
    columns: [
      { key: "title", label: "stage", text: ({ stage }) => stage.title },
      { key: "kind", label: "kind", text: ({ stage }) => stage.kind },
      { key: "status", label: "status", text: ({ stage }) => stage.status },
      { key: "time", label: "time", numeric: true, sort: ({ stage }) => stage.duration_us, text: ({ stage }) => words.duration(stage.duration_us) },
      ...run.parts.map((part) => ({ key: part, label: components[part], numeric: true, sort: ({ stage }) => stage[`${part}_energy_j`], text: ({ stage }) => figure(stage, part) })),
      { key: "share", label: "share of own stages", numeric: true, sort: ({ stage }) => stage.share_of_it_energy, text: ({ stage }) => words.percent(stage.share_of_it_energy) },
      { key: "method", label: "by", text: ({ stage }) => stage.measured_by },
    ],
  });
  drawings.push(list.update);
  return section("stages", "Where the joules went", chart, legend, list.element);
}

function traceSection(run) {
  if (!run.traces.length) return section("power", "Power over time", h("p", { class: "note" }, "The log holds no power samples and no counter that could be drawn."));
  const block = traces({
    traces: run.traces,
    label: `Power over time of ${run.label}`,
    stages: run.report.stages
      .filter((stage) => stage.depth === 0)
      .map((stage) => ({
        title: stage.title,
        role: stage.role,
        start: (stage.t_start_us - run.origin_us) / 1e6,
        end: (stage.t_end_us - run.origin_us) / 1e6,
      })),
  });
  return section(
    "power",
    "Power over time",
    h("p", { class: "note" }, "The line is the mean of each slice of time, the band reaches from its least to its largest reading; a break is a gap."),
    block.element,
  );
}

function samplingSection(run) {
  const rows = stagesOf(run).filter((stage) => stage.depth === 0);
  const doubts = rows.filter((stage) => stage.doubts.length);
  const findings = run.findings.map((finding) =>
    h(
      "li",
      null,
      h("span", { class: `severity-${finding.severity}` }, `${finding.id} ${finding.severity}`),
      `${finding.count > 1 ? `, ${finding.count} times` : ""}: ${finding.message} `,
      h("strong", null, "What to do: "),
      finding.fix,
      finding.joules ? ` (${words.quantity(finding.joules, "J")} at stake)` : "",
      finding.waived ? ` Waived: ${finding.waived}` : "",
    ),
  );
  const levels = Object.entries(run.levels).map(([level, outcome]) => `${level} ${outcome}`).join(", ");
  return section(
    "quality",
    "Sampling and findings",
    h("p", null, `Levels of the protocol: ${levels || "not checked"}. ${run.rankable ? "The run may be ranked in its class." : "The run may not be ranked."}`),
    findings.length ? h("ul", null, findings) : h("p", null, "No rule of the protocol is broken."),
    run.labels.length > 0 && h("ul", null, run.labels.map((label) => h("li", null, `${label.id}: ${label.words}. `, h("strong", null, "To do better: "), label.fix))),
    run.report.notes.length > 0 && h("ul", null, run.report.notes.map((note) => h("li", { text: note }))),
    table({
      caption: "Samples of each stage",
      rows,
      columns: [
        { key: "title", label: "stage", text: (stage) => stage.title },
        { key: "samples", label: "samples", numeric: true, text: (stage) => words.whole(stage.samples) },
        { key: "missed", label: "missed", numeric: true, text: (stage) => words.whole(stage.missed_samples) },
        { key: "gap", label: "longest gap", numeric: true, text: (stage) => (stage.longest_gap_us ? words.duration(stage.longest_gap_us) : "none") },
        { key: "joules", label: "energy in gaps", numeric: true, text: (stage) => (stage.energy_in_gaps_j === null || stage.energy_in_gaps_j === undefined ? "–" : words.quantity(stage.energy_in_gaps_j, "J")) },
      ],
    }).element,
    doubts.length > 0 && h("ul", null, doubts.map((stage) => h("li", null, `${stage.title}: ${stage.doubts.join("; ")}.`))),
  );
}

function tokenSection(run) {
  const counts = Object.entries(run.report.tokens);
  const list = table({
    caption: "Energy of the whole run over each count of its student's tokens, with the choices above",
    rows: counts.map(([name, count]) => ({ name, count })),
    columns: [
      { key: "name", label: "denominator", text: ({ name }) => DENOMINATORS[name] ?? name },
      { key: "count", label: "tokens", numeric: true, text: ({ count }) => words.whole(count) },
      { key: "each", label: "energy for each token", numeric: true, text: ({ count }) => words.spread(sums.perToken(energyOf(run).interval, count), "J") },
    ],
  });
  drawings.push(list.update);
  return section(
    "tokens",
    "Tokens",
    counts.length ? list.element : h("p", { class: "note" }, "The run counted no tokens: no J/token follows from it."),
    table({
      caption: "Counts of each stage",
      rows: run.report.stages,
      columns: [
        { key: "title", label: "stage", text: (stage) => stage.title },
        ...["trained", "processed", "positions", "generated"].map((name) => ({ key: name, label: name, numeric: true, text: (stage) => (stage[`tokens_${name}`] === null ? "–" : words.whole(stage[`tokens_${name}`])) })),
      ],
    }).element,
  );
}

function lineageSection(run) {
  const { stages, artifacts, edges } = run.lineage;
  if (!edges.length) return section("lineage", "What was made of what", h("p", { class: "note" }, "The run declares no artifacts."));
  const noted = artifacts.map((a) => ({
    ...a,
    note: a.origin ? `another run: ${a.joules === null ? "unknown" : words.quantity(a.joules, "J")}` : words.bytes(a.bytes),
  }));
  const energy = new Map(run.report.stages.map((stage) => [stage.stage_uid, noteOf(stage, 1)]));
  const boxes = stages.map((stage) => ({ ...stage, note: energy.get(stage.uid) ?? "" }));
  const title = (uid) => stages.find((stage) => stage.uid === uid)?.title ?? "a stage";
  return section(
    "lineage",
    "What was made of what",
    h("p", { class: "note" }, "Boxes are stages with their energy, rounded boxes are artifacts by their digest; a dashed one was paid for by another run, with what it paid."),
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "graph of artifacts" }, graph({ stages: boxes, artifacts: noted, edges, label: "graph of stages and artifacts; the list below says the same" })),
    h(
      "details",
      null,
      h("summary", null, "The same as a list"),
      h(
        "ul",
        null,
        noted.map((a) => {
          const made = edges.filter((edge) => edge.artifact === a.id && edge.made).map((edge) => title(edge.stage));
          const read = edges.filter((edge) => edge.artifact === a.id && !edge.made).map((edge) => title(edge.stage));
          return h("li", null, `${a.name} (${a.note}; ${a.id.slice(0, 19)}…)`, made.length ? ` made by ${made.join(", ")}` : "", read.length ? `${made.length ? "," : ""} read by ${read.join(", ")}` : "");
        }),
      ),
    ),
  );
}

function environmentSection(run) {
  return section(
    "environment",
    "Environment",
    h("p", { class: "note" }, `Run ${run.id}, ${run.date ?? "date unknown"}, protocol ${run.report.protocol_version}. Class: ${run.comparability ?? "unknown"}`),
    h("dl", { class: "facts" }, run.environment.map(([name, value]) => [h("dt", { text: name }), h("dd", { text: value })])),
  );
}

function citeSection(run) {
  const text = h("pre", { tabindex: 0, "aria-label": "BibTeX" }, run.cite);
  const said = h("span", { role: "status", class: "note" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(run.cite);
      said.textContent = " copied";
    } catch {
      getSelection().selectAllChildren(text); // pages from file:// may be refused the clipboard
      said.textContent = " selected: copy it with Ctrl+C";
    }
  };
  return section("cite", "How to cite", text, h("div", { class: "buttons" }, h("button", { type: "button", onclick: copy }, "Copy"), said));
}

const detail = h("div");
let shownRun = null;
const common = many ? [drawComparison(), drawParts()] : [];
const commonSections = sections.length;
const commonDrawings = [...drawings];

const navigation = h("nav", { "aria-label": "Sections" });
const sentence = h("p", { class: "sentence" });
const subtitle = h("p", { class: "note" });

function showRun() {
  const run = runs.find((one) => one.id === state.run) ?? runs[0];
  if (!many) sentence.textContent = run.sentence;
  if (shownRun === run) return;
  shownRun = run;
  sections.length = commonSections;
  drawings.length = 0;
  drawings.push(...commonDrawings);
  put(
    detail,
    many && h("h2", { class: "detail-title" }, `In detail: ${run.label}`),
    many && h("p", null, run.sentence),
    stageSection(run),
    traceSection(run),
    samplingSection(run),
    tokenSection(run),
    lineageSection(run),
    environmentSection(run),
    citeSection(run),
  );
  put(navigation, h("ul", null, sections.map(({ id, title }) => h("li", null, h("button", { type: "button", class: "pick", onclick: () => go(id) }, title)))));
}

// The hash holds the reader's choices, so links inside the page do not use it.
function go(id) {
  const target = document.getElementById(`${id}-title`);
  target.setAttribute("tabindex", "-1");
  target.focus({ preventScroll: true });
  target.scrollIntoView();
}

function redraw() {
  current = runs.map(figuresOf);
  showRun();
  drawSummary();
  drawFactorNote();
  for (const draw of drawings) draw();
}

put(
  document.getElementById("app"),
  h("button", { type: "button", class: "skip", onclick: () => go(many ? "compare" : "stages") }, "To the figures"),
  h("header", null, h("h1", { text: heading }), sentence, subtitle),
  h(
    "main",
    null,
    h("section", { "aria-label": "Choices of the reader" }, panel.element, factorNote, summary, navigation),
    common,
    detail,
  ),
);
subtitle.textContent = `Recomputed from the raw rows of ${many ? "the logs" : "the log"} by protocol ${runs[0].report.protocol_version}. PUE, grid and reuse are yours to choose.`;
document.title = heading;
redraw();
