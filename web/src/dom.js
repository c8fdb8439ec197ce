// Elements, made of tags, attributes and text. A string is always a text node: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Puts new children in the place of the old ones; what is there already stays, so that nothing of it is laid out anew.
export function put(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child);
  const now = element.childNodes;
  let place = 0;
  for (; place < wanted.length && place < now.length; place += 1) {
    const [old, child] = [now[place], wanted[place]];
    if (old === child || old.data === child) continue;
    if (old.data && typeof child === "string") old.data = child;
    else old.replaceWith(child);
  }
  element.append(...wanted.slice(place));
  while (now.length > wanted.length) element.lastChild.remove();
  return element;
}

// Calls `draw(width)` now and whenever the width of an element changes.
export function whenSized(element, draw) {
  let last = 0;
  const look = () => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) {
      last = width;
      draw(width);
    }
  };
  new ResizeObserver(look).observe(element);
  look();
}
