// Elements from text only: whatever a model, a data file or a plugin says is put in as text and can't become markup.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

export const byId = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function pill(text, tone = "") {
  return el("span", { class: `pill ${tone}` }, text);
}

export function nothing(text) {
  return el("p", { class: "nothing" }, text);
}

export function table(headings, rows) {
  const head = el("thead", {}, el("tr", {}, headings.map(([text, kind]) => el("th", { scope: "col", class: kind }, text))));
  const line = ({ cells, tone }) => el("tr", { class: tone }, cells.map((cell, index) => el("td", { class: headings[index][1] }, cell)));
  return el("table", {}, head, el("tbody", {}, rows.map(line)));
}

// What a part of the page was last drawn from: it is drawn again only when that changed, so that focus, selection and scroll stay.
const drawn = new WeakMap();

export function redraw(element, source, build) {
  const key = JSON.stringify(source);
  if (drawn.get(element) === key) return;
  drawn.set(element, key);
  const open = new Set([...element.querySelectorAll("details[open]")].map((details) => details.dataset.key));
  const focused = element.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  const top = element.scrollTop;
  element.replaceChildren(...[build()].flat());
  for (const details of element.querySelectorAll("details[data-key]")) {
    if (open.has(details.dataset.key)) details.open = true;
    if (focused === details.dataset.key) details.querySelector("summary").focus({ preventScroll: true });
  }
  element.scrollTop = top;
}
