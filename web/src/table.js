// A table that can be sorted; of many rows only those in view are in the document. Where all rows are drawn and
// they are wider than the page, each becomes a card (`cards` in theme.css). The roles say what a card's layout
// would hide from assistive technology.

import { h, put, whenSized } from "./dom.js";

const MANY = 60; // rows from which only a window is drawn
const ROW_PX = 36;
const SPARE = 5; // rows drawn on either side of those in view

// columns: [{key, label, about, numeric, wraps, fixed, sort(row), text(row)}]; `text` gives a string or a node,
// and the same one for ever where the column is `fixed`.
// pick(row): what happens when a row's first cell is activated; null for none.
export function table({ caption, columns, rows, sort = null, pick = null }) {
  let order = [...rows];
  let by = sort;
  let all = rows.length <= MANY;
  let first = 0;
  let scrolled = false;
  let sorted = null;
  let inView = 20;
  let shown = {};
  let lines = new Map(); // place in the order -> an element, what holds each cell's content, and what stands there
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map((column) => {
    const button = column.sort
      ? h("button", { type: "button", class: "sort", title: column.about, onclick: () => sortBy(column.key) }, column.label)
      : column.label;
    return h("th", { scope: "col", role: "columnheader", class: `${column.numeric ? "number" : ""} ${column.sort ? "" : "fixed"}`, title: column.about }, button);
  });
  const element = h(
    "table",
    { role: "table", "aria-rowcount": rows.length + 1 },
    h("caption", { text: caption }),
    h("thead", { role: "rowgroup", class: columns.some((column) => column.sort) ? null : "fixed" }, h("tr", { role: "row", "aria-rowindex": 1 }, heads)),
    body,
  );
  const scroller = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": caption }, element);
  const more = h("button", { type: "button", onclick: showAll }, `Show all ${rows.length} rows`);
  const holder = h("div", { class: "table" }, scroller, all ? null : more);
  if (!all) {
    scroller.classList.add("windowed");
    new ResizeObserver(() => {
      inView = Math.ceil(scroller.clientHeight / ROW_PX);
      if (!all) draw();
    }).observe(scroller);
    scroller.addEventListener("scroll", () => {
      if (scrolled) return;
      scrolled = true;
      requestAnimationFrame(() => {
        scrolled = false;
        const place = Math.max(0, Math.floor(scroller.scrollTop / ROW_PX) - SPARE);
        if (Math.abs(place - first) > 4 || place === 0) {
          first = place;
          draw();
        }
      });
    });
  }
  addEventListener("beforeprint", showAll);
  whenSized(holder, fit);

  function fit() {
    if (!all) return;
    element.classList.remove("cards");
    element.classList.toggle("cards", scroller.scrollWidth > scroller.clientWidth);
  }

  function showAll() {
    all = true;
    scroller.classList.remove("windowed");
    more.remove();
    draw();
  }

  function sortBy(key) {
    by = { key, down: by?.key === key ? !by.down : false };
    update();
  }

  function made() {
    const line = { texts: [], row: null };
    const holders = columns.map((column, place) => {
      if (place > 0) {
        return h("td", { role: "cell", "data-label": column.label, class: column.numeric ? `number ${column.wraps ? "words" : ""}` : null });
      }
      return pick ? h("button", { type: "button", class: "pick", onclick: () => pick(line.row) }) : h("th", { scope: "row", role: "rowheader" });
    });
    const [head, ...rest] = holders;
    const named = pick ? h("th", { scope: "row", role: "rowheader" }, head) : head;
    return Object.assign(line, { element: h("tr", { role: "row" }, named, rest), holders });
  }

  // Writes only what is not there yet: a text node is cheap, a row of new elements is not, nor is a cell's layout.
  function fill(line, row, index) {
    columns.forEach((column, place) => {
      if (line.row === row && column.fixed) return;
      const content = column.text(row);
      if (content === line.texts[place]) return;
      line.texts[place] = content;
      put(line.holders[place], content);
    });
    line.row = row;
    if (line.index !== index) line.element.setAttribute("aria-rowindex", (line.index = index));
    const name = row.className ?? "";
    if (line.element.className !== name) line.element.className = name;
  }

  function draw() {
    const most = all ? order.length : inView + 2 * SPARE;
    const from = Math.min(first, Math.max(0, order.length - most));
    const to = Math.min(order.length, from + most);
    const free = [...lines].filter(([place]) => place < from || place >= to).map(([, line]) => line);
    const next = new Map();
    for (let place = from; place < to; place += 1) {
      next.set(place, lines.get(place) ?? free.pop() ?? made());
      fill(next.get(place), order[place], place + 2);
    }
    lines = next;
    if (from === shown.from && to === shown.to) return;
    shown = { from, to };
    const blank = (count) =>
      count > 0 && h("tr", { "aria-hidden": "true" }, h("td", { colspan: columns.length, height: count * ROW_PX }));
    put(body, blank(from), [...next.values()].map(({ element: row }) => row), blank(order.length - to));
  }

  // Draws again, for rows whose figures have changed.
  function update() {
    if (by) {
      const { sort: value, fixed } = columns.find((column) => column.key === by.key);
      if (sorted !== by || !fixed) {
        const unknown = (x) => x === null || x === undefined || Number.isNaN(x);
        const keyed = rows.map((row) => [value(row), row]);
        keyed.sort(([x], [y]) => {
          if (unknown(x) || unknown(y)) return unknown(x) - unknown(y); // what is unknown comes last either way
          return (x < y ? -1 : x > y ? 1 : 0) * (by.down ? -1 : 1);
        });
        order = keyed.map(([, row]) => row);
      }
      if (sorted !== by) {
        columns.forEach((column, place) => {
          if (column.sort) {
            heads[place].setAttribute("aria-sort", column.key === by.key ? (by.down ? "descending" : "ascending") : "none");
          }
        });
      }
      sorted = by;
    }
    draw();
    fit();
  }

  update();
  return { element: holder, update };
}
