// The newest events as one line each.

import { byId, el } from "./dom.js";
import { clock, number } from "./format.js";

const KEPT = 300;
const HEAD = new Set(["kind", "run", "offset", "time", "source", "seq", "not_finite"]);

function brief(event) {
  if (event.kind === "step") {
    const broken = new Set(Object.keys(event.not_finite ?? {}));
    const metrics = Object.entries(event.metrics).map(([name, value]) => `${name} ${broken.has(`metrics.${name}`) ? "not finite" : number(value)}`);
    return `step ${event.step}  ${metrics.join("  ")}`;
  }
  if (event.kind === "system") return `${event.host} ${event.risk ? `${event.risk} risk` : ""}`;
  const told = Object.entries(event).filter(([name, value]) => {
    if (HEAD.has(name) || value === null || value === "" || value === -1) return false;
    return typeof value !== "object" || Object.keys(value).length > 0;
  });
  return told.map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join("  ").slice(0, 400);
}

export class Tail {
  constructor() {
    this.events = [];
    this.filter = "";
    byId("events-filter").addEventListener("input", (event) => {
      this.filter = event.target.value.trim().toLowerCase();
      this.draw();
    });
  }

  add(event) {
    this.events.unshift({ offset: event.offset, kind: event.kind, time: event.time, text: brief(event), run: event.run });
    if (this.events.length > KEPT) this.events.length = KEPT;
  }

  draw() {
    const matches = ({ kind, text, run }) => !this.filter || `${kind} ${run} ${text}`.toLowerCase().includes(this.filter);
    const lines = this.events.filter(matches).slice(0, 100).map((event) =>
      el("div", { class: "event" }, el("time", {}, clock(event.time)), el("b", {}, event.kind), el("span", { title: event.text }, event.text)),
    );
    const silent = this.events.length ? "No event matches the filter." : "Events appear here as they come.";
    byId("events").replaceChildren(...(lines.length ? lines : [el("p", { class: "nothing" }, silent)]));
  }
}
