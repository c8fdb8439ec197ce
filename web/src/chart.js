// Charts as SVG: stacked bars, a plane of energy and quality, lines, and a graph. Each is a picture with a text; the
// same figures stand in a table beside it.

import { h, put, s } from "./dom.js";
import { quantity, tick } from "./format.js";

const TEXT = 12;

function picture(width, height, label, ...children) {
  return s(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" },
    children,
  );
}

// Round numbers from nothing to at least `top`.
function ticks(top, wanted) {
  if (!(top > 0)) return [0];
  const raw = top / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const found = [];
  for (let at = 0; at <= top * 1.0001; at += step) found.push(at);
  return found;
}

// As harness/report/figures/parts.py: 1, 2, 5, and more of them where few fit.
function logTicks(low, high, few) {
  let found = [];
  for (const steps of [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    if (found.length > (few ? 1 : 3)) break;
    found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const m of steps) if (m * 10 ** power >= low && m * 10 ** power <= high) found.push(m * 10 ** power);
    }
  }
  return found.length > 7 ? found.filter((at) => /^1/.test(at.toExponential())) : found;
}

// Text cut so that it fits; the whole stands in its title.
function fitted(x, y, text, room, attributes) {
  const most = Math.max(3, Math.floor(room / (TEXT * 0.56)));
  const shown = text.length > most ? `${text.slice(0, most - 1)}…` : text;
  return s("text", { x, y, ...attributes }, s("title", null, text), shown);
}

// rows: [{label, note, parts: [{value, role, name}], low, high}]; unit of the values, e.g. J
export function bars({ width, rows, unit, label }) {
  const narrow = width < 560;
  const left = narrow ? 0 : Math.min(220, width * 0.3);
  const right = 88;
  const rowHeight = narrow ? 40 : 28;
  const room = Math.max(60, width - left - right);
  const top = Math.max(...rows.map((row) => row.parts.reduce((sum, part) => sum + part.value, 0)), 0);
  const scale = (value) => (top > 0 ? (value / top) * room : 0);
  const height = rows.length * rowHeight + 30;
  const marks = rows.map((row, place) => {
    const y = place * rowHeight + (narrow ? 16 : 4);
    const whole = row.parts.reduce((sum, part) => sum + part.value, 0);
    let x = left;
    const boxes = row.parts.map((part) => {
      const size = scale(part.value);
      const box = s(
        "rect",
        { x, y, width: Math.max(part.value > 0 ? 1 : 0, size), height: 18, class: `role-${part.role} part-${part.part ?? "all"}` },
        s("title", null, `${row.label}: ${part.name} ${quantity(part.value, unit)}`),
      );
      x += size;
      return box;
    });
    const shown = row.parts.length ? row.note ?? quantity(whole, unit) : "unknown";
    return s(
      "g",
      null,
      narrow
        ? fitted(0, y - 4, row.label, width)
        : fitted(left - 8, y + 13, row.label, left - 8, { "text-anchor": "end" }),
      boxes,
      s("text", { x: x + 6, y: y + 13 }, shown),
    );
  });
  const axis = ticks(top, narrow ? 3 : 5).map((at) =>
    s(
      "g",
      { class: "axis" },
      s("line", { x1: left + scale(at), x2: left + scale(at), y1: 0, y2: height - 24 }),
      s("text", { x: left + scale(at), y: height - 8, "text-anchor": at === 0 && narrow ? "start" : "middle" }, tick(at, unit)),
    ),
  );
  return picture(width, height, label, axis, marks);
}

const SHAPES = {
  circle: (r, x = 0, y = 0) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  square: (r, x = 0, y = 0) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  triangle: (r, x = 0, y = 0) => `M${x},${y - r * 1.2}l${r * 1.1},${r * 2}h${-r * 2.2}z`,
  diamond: (r, x = 0, y = 0) => `M${x},${y - r * 1.3}l${r * 1.1},${r * 1.3}l${-r * 1.1},${r * 1.3}l${-r * 1.1},${-r * 1.3}z`,
};
export const SHAPE_NAMES = Object.keys(SHAPES);

export const mark = (shape, r, attributes) => s("path", { d: SHAPES[shape](r), ...attributes });

const CROWD = 150; // points from which they are pixels of a canvas over the picture: paths as many take several frames
const HALF = 11; // px from the middle of a mark to the edge of its sprite
const crowds = new WeakMap(); // canvas -> how to draw it again, and how to put elements in its place
const looks = new Map(); // name -> the sprite of a mark and the style of its error bars
let ratio = devicePixelRatio;

// Pixels do not follow the style sheet: they are drawn again where it says something else, and paper gets elements.
const crowdsNow = () => [...document.querySelectorAll(".crowd canvas")].map((canvas) => crowds.get(canvas));
function restyle() {
  looks.clear();
  ratio = devicePixelRatio;
  for (const { draw } of crowdsNow()) draw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
addEventListener("resize", () => ratio !== devicePixelRatio && restyle());
addEventListener("beforeprint", () => crowdsNow().forEach(({ spell }) => spell()));
addEventListener("afterprint", () => crowdsNow().forEach(({ draw }) => draw()));

// Empties a canvas of so many px of the page; its own pixels are those of the screen.
function blank(canvas, ...sides) {
  const [width, height] = sides.map((size) => Math.round(size * ratio));
  Object.assign(canvas, { width, height });
  Object.assign(canvas.style, { width: `${width / ratio}px`, height: `${height / ratio}px` });
  return canvas.getContext("2d");
}

function lookOf({ state, role, shape }) {
  const name = `${state} ${role} ${shape}`;
  if (looks.has(name)) return looks.get(name);
  const parts = ["error", "mark"].map((part) => s("path", { class: part }));
  const probe = s("svg", { width: 0, height: 0 }, s("g", { class: `point ${state} regime-${role}` }, parts));
  document.body.append(probe);
  const [bar, style] = parts.map((part) => getComputedStyle(part));
  const sprite = h("canvas");
  const ink = blank(sprite, 2 * HALF, 2 * HALF);
  ink.scale(ratio, ratio);
  const path = new Path2D(SHAPES[shape](6, HALF, HALF));
  Object.assign(ink, { fillStyle: style.fill, strokeStyle: style.stroke, lineWidth: parseFloat(style.strokeWidth) });
  ink.setLineDash(style.strokeDasharray.split(",").map(parseFloat).filter((size) => size > 0));
  ink.fill(path);
  ink.stroke(path);
  const found = { sprite, hue: bar.stroke, thick: Math.max(1, Math.floor(parseFloat(bar.strokeWidth) * ratio)), alpha: Number(bar.opacity) };
  looks.set(name, found);
  probe.remove();
  return found;
}

// The picture with its points on the canvas over it; the one under the pointer names itself. `element` makes one that
// stands for a point on paper. Nothing of a drawing but the points is kept: the slider would leave much to collect.
function crowd({ picture, canvas, points, x, y, words, element }) {
  const alike = [];
  for (const p of points) {
    const own = alike.find(([one]) => one.state === p.state && one.role === p.role && one.shape === p.shape);
    if (own) own.push(p);
    else alike.push([p]);
  }
  const [width, height] = ["width", "height"].map((side) => Number(picture.getAttribute(side)));
  const vector = s("g");
  picture.append(vector);
  const draw = () => {
    vector.replaceChildren();
    const ink = blank(canvas, width, height);
    const [across, down] = [x, y].map((place) => (value) => Math.round(place(value) * ratio)); // whole pixels are quick
    for (const own of alike) {
      const { hue, thick, alpha } = lookOf(own[0]);
      Object.assign(ink, { fillStyle: hue, globalAlpha: alpha });
      for (const p of own) {
        const left = across(p.x.low);
        const top = down(p.y.high);
        ink.fillRect(left, down(p.y.best) - (thick >> 1), across(p.x.high) - left, thick);
        ink.fillRect(across(p.x.best) - (thick >> 1), top, thick, down(p.y.low) - top);
      }
    }
    ink.globalAlpha = 1;
    for (const own of alike) {
      const { sprite } = lookOf(own[0]);
      const half = sprite.width >> 1;
      for (const p of own) ink.drawImage(sprite, across(p.x.best) - half, down(p.y.best) - half);
    }
  };
  const spell = () => {
    vector.replaceChildren(...points.map(element));
    blank(canvas, 0, 0);
  };
  canvas.onpointermove = ({ offsetX, offsetY }) => {
    const off = (at, one, other) => Math.max(Math.min(one, other) - at, 0, at - Math.max(one, other));
    const far = (p) => {
      const [across, down] = [x(p.x.best) - offsetX, y(p.y.best) - offsetY];
      const [along, up] = [off(offsetX, x(p.x.low), x(p.x.high)), off(offsetY, y(p.y.low), y(p.y.high))];
      return Math.min(Math.hypot(across, down) - 6, Math.hypot(along, down), Math.hypot(across, up));
    };
    let [near, least] = [null, 3];
    for (const p of points) {
      const found = far(p);
      if (found < least) [near, least] = [p, found];
    }
    canvas.title = near ? words(near) : "";
  };
  crowds.set(canvas, { draw, spell });
  draw();
  const holder = canvas.parentNode ?? h("div", { class: "crowd" }, h("div"), canvas);
  put(holder.firstChild, picture);
  return holder; // the canvas stays in the page: one taken out of it and put back costs as much as its points
}

// points: [{name, x: {best, low, high}, y: {...}, shape, role, state: "frontier"|"tie"|"dominated", words}];
// `canvas` is that of the picture before, for many points.
export function plane({ width, points, unit, label, log, xTitle, yTitle, words = (p) => p.words, canvas = h("canvas") }) {
  const height = Math.round(Math.max(260, Math.min(420, width * 0.55)));
  const [left, right, above, below] = [54, 16, 12, 46];
  let [low, high, yTop, start] = [log ? Infinity : 0, 0, 1, Infinity];
  for (const p of points) {
    if (log) low = Math.min(low, p.x.low > 0 ? p.x.low : p.x.best > 0 ? p.x.best : p.x.high > 0 ? p.x.high : low);
    high = Math.max(high, Number.isFinite(p.x.high) ? p.x.high : p.x.best);
    yTop = Math.max(yTop, p.y.high);
    start = Math.min(start, p.x.high);
  }
  [low, high, yTop] = log ? [low * 0.85, high * 1.18, yTop * 1.03] : [0, high * 1.05, yTop * 1.03];
  if (!(high > low)) [low, high] = [low * 0.9, low * 1.1 + 1e-9];
  const span = log ? Math.log(high / low) : high - low;
  const x = (value) => {
    const at = (log ? Math.log(Math.max(value, low) / low) : value - low) / span;
    return left + Math.max(0, Math.min(1, at)) * (width - left - right);
  };
  const y = (value) => height - below - (Math.max(0, Math.min(value, yTop)) / yTop) * (height - above - below);
  const frontier = points.filter((p) => p.state === "frontier").sort((a, b) => a.x.best - b.x.best);
  const step = (pick) =>
    frontier.map((p, place) => `${place ? `H${x(pick(p.x, "x"))}V` : `M${x(pick(p.x, "x"))},`}${y(pick(p.y, "y"))}`).join("");
  // Between the best and the worst that the intervals allow: the quality that a given energy buys.
  const stairs = (end, quality) => {
    let best = 0;
    for (const p of points) if (p.x[end] <= start) best = Math.max(best, p.y[quality]);
    const steps = best > 0 ? [[x(start), y(best)]] : [];
    const dearer = points.filter((p) => p.x[end] > start && p.y[quality] > best).sort((a, b) => a.x[end] - b.x[end]);
    for (const p of dearer) {
      if (p.y[quality] <= best) continue;
      steps.push([x(p.x[end]), y(best)], [x(p.x[end]), y(p.y[quality])]);
      best = p.y[quality];
    }
    return [...steps, [width - right, y(best)]];
  };
  const band = [...stairs("low", "high"), ...stairs("high", "low").reverse()];
  const xs = log ? logTicks(low, high, width < 560) : ticks(high, width < 560 ? 3 : 6);
  const axis = [
    xs.map((at) =>
      s(
        "g",
        { class: "axis" },
        s("line", { x1: x(at), x2: x(at), y1: above, y2: height - below }),
        s("text", { x: x(at), y: height - below + 16, "text-anchor": "middle" }, tick(at, unit)),
      ),
    ),
    ticks(yTop, 5).map((at) =>
      s(
        "g",
        { class: "axis" },
        s("line", { x1: left, x2: width - right, y1: y(at), y2: y(at) }),
        s("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, at.toFixed(1)),
      ),
    ),
    s("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, xTitle),
    s("text", { x: 0, y: 0, transform: `translate(12 ${height / 2 - 20}) rotate(-90)`, "text-anchor": "middle" }, yTitle),
  ];
  const element = (p) => {
    const [across, down] = [x(p.x.best), y(p.y.best)];
    return s(
      "g",
      { class: `point ${p.state} regime-${p.role}` },
      s("path", { class: "error", d: `M${x(p.x.low)},${down}H${x(p.x.high)}M${across},${y(p.y.low)}V${y(p.y.high)}` }),
      mark(p.shape, 6, { class: "mark", transform: `translate(${across} ${down})` }),
      s("title", null, words(p)),
    );
  };
  const many = points.length > CROWD;
  const drawn = picture(
    width,
    height,
    label,
    axis,
    frontier.length > 1 && s("polygon", { class: "band", points: band.map((at) => at.map((v) => v.toFixed(1)).join(",")).join(" ") }),
    frontier.length > 1 && s("path", { class: "frontier-line", d: step((ends) => ends.best) }),
    !many && points.map(element),
  );
  return many ? crowd({ picture: drawn, canvas, points, x, y, words, element }) : drawn;
}

// A key to hues and shapes: entries [{words, role | regime, shape}]
export function key(entries) {
  return h(
    "ul",
    { class: "key" },
    entries.map(({ words, className, shape = "square", state = "frontier" }) =>
      h(
        "li",
        null,
        s("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, s("g", { class: `point ${state} ${className}` }, mark(shape, 5.5, { class: `mark ${className}` }))),
        words,
      ),
    ),
  );
}

// A graph of stages (boxes) and artifacts (rounded), in columns from left to right.
export function graph({ stages, artifacts, edges, label }) {
  const depth = new Map();
  const before = new Map();
  for (const edge of edges) {
    const [from, to] = edge.made ? [`s${edge.stage}`, edge.artifact] : [edge.artifact, `s${edge.stage}`];
    if (!before.has(to)) before.set(to, []);
    before.get(to).push(from);
  }
  const level = (node, seen = new Set()) => {
    if (depth.has(node)) return depth.get(node);
    if (seen.has(node)) return 0; // a log may name a circle; it is drawn, not followed
    seen.add(node);
    const found = Math.max(-1, ...(before.get(node) ?? []).map((one) => level(one, seen))) + 1;
    depth.set(node, found);
    return found;
  };
  const nodes = [
    ...artifacts.map((a) => ({ id: a.id, words: a.name, note: a.note, kind: a.origin ? "inherited" : "artifact" })),
    ...stages.map((one) => ({ id: `s${one.uid}`, words: one.title, note: one.note, kind: "stage", role: one.role })),
  ];
  const columns = [];
  for (const node of nodes) {
    const at = level(node.id);
    (columns[at] ??= []).push(node);
  }
  const [boxWidth, boxHeight, gapX, gapY] = [168, 40, 44, 12];
  const tall = Math.max(...columns.map((column) => column?.length ?? 0), 1);
  const width = columns.length * (boxWidth + gapX) - gapX + 4;
  const height = tall * (boxHeight + gapY) + 4;
  const place = new Map();
  columns.forEach((column, c) =>
    column?.forEach((node, r) => {
      const y = ((r + 0.5) * (height - 4)) / column.length - boxHeight / 2 + 2;
      place.set(node.id, { x: c * (boxWidth + gapX) + 2, y });
    }),
  );
  const lines = edges.map((edge) => {
    const [from, to] = edge.made ? [`s${edge.stage}`, edge.artifact] : [edge.artifact, `s${edge.stage}`];
    const [a, b] = [place.get(from), place.get(to)];
    if (!a || !b) return null;
    const [x1, y1, x2, y2] = [a.x + boxWidth, a.y + boxHeight / 2, b.x, b.y + boxHeight / 2];
    const bend = Math.max(20, Math.abs(x2 - x1) / 2);
    return s("path", { class: "edge", d: `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` });
  });
  const boxes = nodes.map((node) => {
    const { x, y } = place.get(node.id);
    return s(
      "g",
      { class: `node ${node.kind} ${node.role ? `role-${node.role}` : ""}` },
      s("rect", { x, y, width: boxWidth, height: boxHeight, rx: node.kind === "stage" ? 3 : 14 }),
      fitted(x + 10, y + 17, node.words, boxWidth - 14),
      fitted(x + 10, y + 32, node.note ?? "", boxWidth - 14, { class: "note" }),
    );
  });
  return picture(width, height, label, lines, boxes);
}
