// Power over time by uPlot: the mean as a line, least to largest as a band, stages behind it, zoom by mouse and keys.

import uPlot from "uplot";

import { h, put, whenSized } from "./dom.js";
import { duration } from "./format.js";

// Asked for once: each question makes the browser work out its styles again.
const colours = new Map();
function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

const INCREMENTS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];

function unpack(trace) {
  let at = 0;
  const x = trace.step_ms.map((step) => (at += step) / 1000);
  const watts = (list) => list.map((value) => (value === null ? null : value / 10));
  return [x, watts(trace.low_dw), watts(trace.mean_dw), watts(trace.high_dw)];
}

// The same with half the points: least, mean and largest of each pair; a break stays a break.
function halved([x, low, mean, high]) {
  const found = [[], [], [], []];
  for (let at = 0; at + 1 < x.length; at += 2) {
    const gap = mean[at] === null || mean[at + 1] === null;
    found[0].push((x[at] + x[at + 1]) / 2);
    found[1].push(gap ? null : Math.min(low[at], low[at + 1]));
    found[2].push(gap ? null : (mean[at] + mean[at + 1]) / 2);
    found[3].push(gap ? null : Math.max(high[at], high[at + 1]));
  }
  return found;
}

// traces: as harness/report/traces.py packs them; stages: [{title, role, start, end}] in seconds from the origin.
export function traces({ traces: packed, stages, label }) {
  const plots = [];
  let width = 0;
  const end = Math.max(1, ...stages.map((stage) => stage.end), ...packed.map((t) => t.step_ms.reduce((a, b) => a + b, 0) / 1000));
  let range = [0, end];
  const said = h("p", { class: "note", role: "status" });

  function inPlot(u, paint) {
    const { ctx } = u;
    const { left, top, width: w, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, w, height);
    ctx.clip();
    for (const stage of stages) {
      const [a, b] = [u.valToPos(stage.start, "x", true), u.valToPos(stage.end, "x", true)];
      if (b >= left && a <= left + w) paint(ctx, stage, a, b, u.bbox);
    }
    ctx.restore();
  }

  // Behind the grid.
  const bands = (u) =>
    inPlot(u, (ctx, stage, a, b, { top, height }) => {
      ctx.globalAlpha = 0.2;
      ctx.fillStyle = colour(`--${stage.role}`);
      ctx.fillRect(a, top, Math.max(1, b - a), height);
    });

  // Before it, so that no line crosses a name.
  const names = (u) =>
    inPlot(u, (ctx, stage, a, b, { left, top, width: w }) => {
      const ratio = devicePixelRatio;
      if (b - a <= 60 * ratio) return;
      ctx.fillStyle = colour("--ink");
      ctx.font = `${11 * ratio}px ${colour("--font")}`;
      ctx.textBaseline = "top";
      ctx.textAlign = "left";
      const from = Math.max(a, left) + 4 * ratio;
      const most = Math.floor((Math.min(b, left + w) - from) / (6.2 * ratio));
      if (most > 3) ctx.fillText(stage.title.length > most ? `${stage.title.slice(0, most - 1)}…` : stage.title, from, top + 4 * ratio);
    });

  function show(from, to) {
    const least = 0.2;
    const size = Math.max(least, Math.min(end, to - from));
    const start = Math.max(0, Math.min(end - size, from));
    range = [start, start + size];
    for (const plot of plots) {
      plot.stale = !plot.seen;
      if (plot.seen) follow(plot);
    }
    said.textContent =
      size >= end * 0.999
        ? `All ${duration(end * 1e6)}. Drag across a part to zoom into it.`
        : `From ${duration(range[0] * 1e6)} to ${duration(range[1] * 1e6)} of ${duration(end * 1e6)}.`;
  }

  // Draws no more points than the screen has columns: the finest level that fits.
  function follow(plot) {
    const share = (range[1] - range[0]) / end;
    const level = plot.levels.findIndex((data) => data[0].length * share <= 1.1 * width);
    const wanted = level < 0 ? plot.levels.length - 1 : level;
    plot.batch(() => {
      if (plot.level !== wanted) plot.setData(plot.levels[(plot.level = wanted)], false);
      plot.setScale("x", { min: range[0], max: range[1] });
    });
  }

  function plot(trace, holder) {
    const levels = [unpack(trace)];
    while (levels[levels.length - 1][0].length > 600) levels.push(halved(levels[levels.length - 1]));
    const made = new uPlot(
      {
        width,
        height: 190,
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: true, y: false }, points: { size: 6 } },
        scales: { x: { time: false, range: (u, min, max) => [min, max] }, y: { range: (u, min, max) => [0, Math.max(1, max * 1.25)] } },
        axes: [
          { stroke: () => colour("--ink"), grid: { stroke: () => colour("--line") }, values: (u, at) => at.map(clock), size: 28, incrs: INCREMENTS_S },
          { stroke: () => colour("--ink"), grid: { stroke: () => colour("--line") }, values: (u, at) => at.map((v) => `${v} W`), size: 62 },
        ],
        series: [
          {},
          { stroke: "transparent", points: { show: false } },
          { stroke: () => colour(`--${trace.part}`), width: 1.4, points: { show: false } },
          { stroke: "transparent", points: { show: false } },
        ],
        bands: [{ series: [3, 1], fill: () => colour(`--${trace.part}-soft`) }],
        hooks: {
          drawClear: [bands],
          draw: [names],
          setScale: [
            (u, name) => {
              const { min, max } = u.scales.x;
              const own = min === null || (min === range[0] && max === range[1]);
              if (name === "x" && !own && u.seen && !u.stale) show(min, max); // dragged by the reader
            },
          ],
        },
      },
      levels[levels.length - 1],
      holder,
    );
    Object.assign(made, { levels, level: levels.length - 1 });
    made.over.addEventListener("dblclick", () => show(0, end));
    made.seen = true;
    plots.push(made);
    watcher.observe(made.root);
  }

  // A plot out of sight follows when it comes into view.
  const watcher = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      const plot = plots.find((one) => one.root === target);
      plot.seen = isIntersecting;
      if (isIntersecting && plot.stale) {
        plot.stale = false;
        follow(plot);
      }
    }
  });

  const clock = (seconds) => {
    const whole = Math.round(seconds * 10) / 10;
    if (end < 180) return `${whole} s`;
    const pad = (n) => String(Math.floor(n)).padStart(2, "0");
    return end < 7200 ? `${Math.floor(whole / 60)}:${pad(whole % 60)}` : `${Math.floor(whole / 3600)}:${pad((whole / 60) % 60)} h`;
  };

  const middle = () => (range[0] + range[1]) / 2;
  const size = () => range[1] - range[0];
  const moves = {
    "Zoom in": () => show(middle() - size() / 4, middle() + size() / 4),
    "Zoom out": () => show(middle() - size(), middle() + size()),
    Earlier: () => show(range[0] - size() / 2, range[1] - size() / 2),
    Later: () => show(range[0] + size() / 2, range[1] + size() / 2),
    "Whole run": () => show(0, end),
  };
  const keys = { "+": "Zoom in", "=": "Zoom in", "-": "Zoom out", ArrowLeft: "Earlier", ArrowRight: "Later", 0: "Whole run" };
  const holders = packed.map((trace) => {
    const known = trace.mean_dw.filter((v) => v !== null);
    const top = Math.max(...trace.high_dw.filter((v) => v !== null)) / 10;
    const words = known.length
      ? `${trace.name}: ${trace.readings} readings, at most ${top} W; ${trace.source}`
      : `${trace.name}: nothing was read; ${trace.source}`;
    const inner = h("div", { role: "img", "aria-label": words });
    return { trace, inner, element: h("figure", null, h("figcaption", { text: words }), inner) };
  });
  const list = h("div", { class: "traces" }, holders.map((holder) => holder.element));
  const element = h(
    "div",
    {
      class: "trace-block",
      tabindex: 0,
      role: "group",
      "aria-label": `${label}. Keys: plus and minus zoom, arrows move, 0 shows all.`,
      onkeydown: (event) => {
        const move = keys[event.key];
        if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        moves[move]();
      },
    },
    h("div", { class: "buttons" }, Object.entries(moves).map(([words, go]) => h("button", { type: "button", onclick: go }, words))),
    said,
    list,
  );
  whenSized(list, (found) => {
    width = found;
    if (plots.length) for (const one of plots) one.setSize({ width, height: 190 });
    else {
      for (const { trace, inner } of holders) if (trace.step_ms.length) plot(trace, put(inner));
      show(0, end);
    }
  });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => {
    colours.clear();
    plots.forEach((one) => one.redraw());
  });
  return { element, show, redraw: () => plots.forEach((one) => one.redraw()) };
}
