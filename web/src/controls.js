// Controls whose values live in the hash of the address, so that a view can be linked to. One change, one redraw; the
// address follows a slider when it is let go: each step would cost as much as the picture, and Safari allows 100 in 30 s.

import { h, put } from "./dom.js";

const LONG = 100; // options

// specs: [{key, label, kind: "number"|"range"|"select", initial, min, max, step, options: [[value, words]], note}]
export function controls(specs, changed) {
  const state = { ...Object.fromEntries(specs.map((spec) => [spec.key, spec.initial])) };
  const inputs = new Map();
  let [waiting, again] = [false, false];

  function valid(spec, text) {
    if (text === null || text === "") return spec.initial;
    if (spec.kind === "select") return spec.options.some(([value]) => value === text) ? text : spec.initial;
    const value = Number(text);
    return Number.isFinite(value) && value >= spec.min && value <= (spec.max ?? Infinity) ? value : spec.initial;
  }

  // At once, so that the frame to come has it; what changes again before that frame waits for it.
  function redraw() {
    again = waiting;
    if (waiting) return;
    waiting = true;
    changed(state);
    requestAnimationFrame(() => {
      waiting = false;
      if (again) redraw();
    });
  }

  function hash() {
    const parts = specs
      .filter((spec) => state[spec.key] !== spec.initial)
      .map((spec) => `${spec.key}=${encodeURIComponent(state[spec.key])}`);
    return `#${parts.join("&")}`;
  }

  const write = () => history.replaceState(null, "", hash());

  function read() {
    const found = new URLSearchParams(location.hash.slice(1));
    for (const spec of specs) {
      state[spec.key] = valid(spec, found.get(spec.key));
      show(spec);
    }
  }

  function show(spec) {
    const { input, out } = inputs.get(spec.key);
    if (input !== document.activeElement || input.value === "") input.value = state[spec.key] ?? "";
    if (out) out.textContent = spec.words ? spec.words(state[spec.key]) : String(state[spec.key]);
  }

  function set(key, value, moving = false) {
    const spec = specs.find((one) => one.key === key);
    state[key] = valid(spec, value);
    show(spec);
    if (!moving) write();
    redraw();
  }

  // A long list is not what a reader sees first: it comes after the first picture, its chosen option at once.
  function filled(select, spec) {
    const options = (listed) => listed.map(([value, words]) => h("option", { value, text: words }));
    if (spec.options.length <= LONG) return put(select, options(spec.options));
    const chosen = new URLSearchParams(location.hash.slice(1)).get(spec.key) ?? spec.initial;
    put(select, options(spec.options.filter(([value]) => value === chosen)));
    requestAnimationFrame(() => setTimeout(() => {
      put(select, options(spec.options));
      show(spec);
    }));
    return select;
  }

  const fields = specs.map((spec) => {
    const id = `control-${spec.key}`;
    const on = (event) => set(spec.key, event.target.value, spec.kind === "range");
    const input =
      spec.kind === "select"
        ? filled(h("select", { id, onchange: on }), spec)
        : h("input", {
            id,
            type: spec.kind === "range" ? "range" : "number",
            min: spec.min,
            max: spec.max,
            step: spec.step ?? "any",
            placeholder: spec.placeholder,
            oninput: on,
            onchange: spec.kind === "range" && write,
          });
    const out = spec.kind === "range" ? h("output", { for: id }) : null;
    inputs.set(spec.key, { input, out });
    return h("div", { class: "control" }, h("label", { for: id }, spec.label, out && " ", out), input);
  });

  addEventListener("hashchange", () => {
    read();
    redraw();
  });
  read();
  return { element: h("form", { class: "controls", onsubmit: (e) => e.preventDefault() }, fields), state, set, hash };
}
