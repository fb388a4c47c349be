// A line chart of one series on a canvas: crisp on any screen, with a crosshair for mouse, finger and keyboard.

import { el, setText } from "./dom.js";
import { number } from "./format.js";
import { logTicks, scale, smooth, ticks } from "./scale.js";

const PLAIN = { steps: [], values: [], gaps: [] };

export class Chart {
  // `onZoom(first, last)` is called with a range of steps that was selected with the mouse; charts without it can't be zoomed.
  constructor(container, { label, colour = "--accent", small = false, onZoom = null }) {
    Object.assign(this, { container, label, colour, small, onZoom });
    this.data = PLAIN;
    this.marks = { alerts: [], checkpoints: [], evals: [] };
    this.options = { smoothing: 0, logarithmic: false };
    this.hover = null;
    this.drag = null;
    this.canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${label}: no data yet` });
    this.tip = el("div", { class: "tip", "aria-live": "polite" });
    this.tip.hidden = true;
    this.note = el("p", { class: "nothing over" }, "No data yet");
    container.append(this.canvas, this.tip, this.note);
    new ResizeObserver(() => this.schedule()).observe(container);
    this.listen();
  }

  get width() {
    return this.container.clientWidth;
  }

  set(data, marks = this.marks) {
    this.data = data ?? PLAIN;
    this.marks = marks;
    this.describe();
    this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  describe() {
    const { steps, values, gaps } = this.data;
    this.note.hidden = steps.length > 0 || gaps.length > 0;
    if (!steps.length) return;
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const broken = gaps.reduce((sum, gap) => sum + gap.count, 0);
    const text = `${this.label}: ${number(values.at(-1))} at step ${steps.at(-1)}, lowest ${number(low)}, highest ${number(high)}`;
    this.canvas.setAttribute("aria-label", broken ? `${text}, ${broken} values not finite` : text);
  }

  // --- geometry -----------------------------------------------------------------------------------

  layout() {
    const [width, height] = [this.container.clientWidth, this.container.clientHeight];
    const { steps, values, gaps } = this.data;
    const logarithmic = this.options.logarithmic && values.some((value) => value > 0);
    const usable = logarithmic ? values.filter((value) => value > 0) : values;
    const firsts = [steps[0], gaps[0]?.first].filter((step) => step !== undefined);
    const lasts = [steps.at(-1), gaps.at(-1)?.last].filter((step) => step !== undefined);
    let [low, high] = [usable.reduce((a, b) => Math.min(a, b), Infinity), usable.reduce((a, b) => Math.max(a, b), -Infinity)];
    if (!Number.isFinite(low)) [low, high] = [0, 1];
    if (logarithmic) [low, high] = [low / 1.1, high * 1.1];
    else {
      const margin = (high - low || Math.abs(high) || 1) * 0.06;
      [low, high] = [low >= 0 && low - margin < 0 ? 0 : low - margin, high + margin];
    }
    const [first, last] = [Math.min(...firsts), Math.max(...lasts)];
    const box = { left: this.small ? 44 : 52, right: width - 10, top: this.small ? 8 : 16, bottom: height - (this.small ? 20 : 26) };
    return {
      width, height, box, logarithmic, low, high, first, last,
      x: scale(first, last, box.left, box.right),
      y: scale(low, high, box.bottom, box.top, logarithmic),
    };
  }

  colours() {
    if (!this.probe) this.probe = this.container.appendChild(el("span", { class: "probe", "aria-hidden": "true" }));
    const read = (name) => {
      this.probe.style.color = `var(${name})`;
      return getComputedStyle(this.probe).color;
    };
    const names = { line: this.colour, text: "--muted", grid: "--line", bad: "--critical", warn: "--warning", info: "--info", mark: "--ok", evals: "--second", card: "--card" };
    return Object.fromEntries(Object.entries(names).map(([key, name]) => [key, read(name)]));
  }

  // --- drawing ------------------------------------------------------------------------------------

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { steps, gaps } = this.data;
    const view = this.layout();
    this.canvas.width = Math.round(view.width * ratio);
    this.canvas.height = Math.round(view.height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    if (!steps.length && !gaps.length) return;
    const colours = this.colours();
    this.drawAxes(pen, view, colours);
    pen.save();
    pen.beginPath();
    pen.rect(view.box.left, 0, view.box.right - view.box.left + 6, view.box.bottom + 8);
    pen.clip();
    this.drawGaps(pen, view, colours);
    this.drawLines(pen, view, colours);
    this.drawMarks(pen, view, colours);
    pen.restore();
    this.drawHover(pen, view, colours);
  }

  drawAxes(pen, view, colours) {
    const { box } = view;
    pen.font = `${this.small ? 10 : 11}px system-ui, sans-serif`;
    pen.fillStyle = colours.text;
    pen.strokeStyle = colours.grid;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const count = Math.max(2, Math.floor((box.bottom - box.top) / (this.small ? 34 : 44)));
    for (const value of (view.logarithmic ? logTicks : ticks)(view.low, view.high, count)) {
      const y = Math.round(view.y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(box.left, y);
      pen.lineTo(box.right, y);
      pen.stroke();
      pen.fillText(number(value, 3), box.left - 6, y);
    }
    pen.textBaseline = "top";
    for (const step of ticks(view.first, view.last, Math.max(2, Math.floor((box.right - box.left) / 90)))) {
      if (!Number.isInteger(step)) continue;
      const text = step >= 1e6 ? `${number(step / 1e6)}M` : step >= 10_000 ? `${number(step / 1e3)}k` : number(step);
      const half = pen.measureText(text).width / 2;
      pen.textAlign = "center";
      pen.fillText(text, Math.min(box.right - half, Math.max(box.left + half, view.x(step))), box.bottom + (this.small ? 6 : 9));
    }
  }

  drawLines(pen, view, colours) {
    const smoothed = this.options.smoothing > 0;
    this.stroke(pen, view, this.data.values, colours.line, this.small ? 1.5 : smoothed ? 1 : 1.75, smoothed ? 0.32 : 1);
    if (smoothed) this.stroke(pen, view, smooth(this.data.values, this.options.smoothing), colours.line, 2.25, 1);
  }

  // The line breaks where values were not finite: a bridge over a NaN would be a lie.
  stroke(pen, view, values, colour, width, opacity) {
    const { steps, gaps } = this.data;
    pen.globalAlpha = opacity;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.beginPath();
    let [gap, broken] = [0, true];
    for (let index = 0; index < steps.length; index += 1) {
      while (gap < gaps.length && gaps[gap].first < steps[index]) {
        broken = true;
        gap += 1;
      }
      if (view.logarithmic && values[index] <= 0) {
        broken = true;
        continue;
      }
      const [x, y] = [view.x(steps[index]), view.y(values[index])];
      if (broken) pen.moveTo(x, y);
      else pen.lineTo(x, y);
      broken = false;
    }
    pen.stroke();
    if (steps.length === 1) pen.fillRect(view.x(steps[0]) - 2, view.y(values[0]) - 2, 4, 4);
    pen.globalAlpha = 1;
  }

  drawGaps(pen, view, colours) {
    for (const gap of this.data.gaps) {
      const [left, right] = [view.x(gap.first), view.x(gap.last)];
      pen.fillStyle = colours.bad;
      pen.globalAlpha = 0.16;
      pen.fillRect(left - 1.5, view.box.top, Math.max(3, right - left + 3), view.box.bottom - view.box.top);
      pen.globalAlpha = 1;
      if (this.small) continue;
      pen.font = "600 10px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.textBaseline = "bottom";
      pen.fillText(gap.kind === "nan" ? "NaN" : gap.kind, Math.max(view.box.left + 14, (left + right) / 2), view.box.bottom - 9);
    }
  }

  drawMarks(pen, view, colours) {
    const inside = (mark) => mark.step >= view.first && mark.step <= view.last;
    for (const mark of this.marks.checkpoints.filter(inside)) {
      const x = view.x(mark.step);
      pen.fillStyle = colours.mark;
      pen.globalAlpha = mark.deleted ? 0.35 : 1;
      pen.beginPath();
      pen.moveTo(x, view.box.bottom - 5);
      pen.lineTo(x + 5, view.box.bottom);
      pen.lineTo(x, view.box.bottom + 5);
      pen.lineTo(x - 5, view.box.bottom);
      pen.fill();
      pen.globalAlpha = 1;
    }
    for (const mark of this.marks.alerts.filter(inside)) {
      const x = Math.round(view.x(mark.step)) + 0.5;
      pen.strokeStyle = pen.fillStyle = { critical: colours.bad, warning: colours.warn }[mark.severity] ?? colours.info;
      pen.lineWidth = 1;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(x, view.box.top);
      pen.lineTo(x, view.box.bottom);
      pen.stroke();
      pen.setLineDash([]);
      pen.beginPath();
      pen.moveTo(x - 5.5, view.box.top - 10);
      pen.lineTo(x + 5.5, view.box.top - 10);
      pen.lineTo(x, view.box.top);
      pen.fill();
    }
    for (const mark of this.marks.evals.filter(inside)) {
      if (view.logarithmic && mark.value <= 0) continue;
      const y = Math.min(view.box.bottom - 4, Math.max(view.box.top + 4, view.y(mark.value)));
      pen.fillStyle = colours.evals;
      pen.strokeStyle = colours.card;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(view.x(mark.step), y, 5, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    }
  }

  drawHover(pen, view, colours) {
    if (this.drag) {
      pen.fillStyle = colours.line;
      pen.globalAlpha = 0.14;
      pen.fillRect(Math.min(this.drag.from, this.drag.to), view.box.top, Math.abs(this.drag.to - this.drag.from), view.box.bottom - view.box.top);
      pen.globalAlpha = 1;
    }
    if (this.hover === null || !this.data.steps.length) {
      this.tip.hidden = true;
      return;
    }
    const index = Math.min(this.hover, this.data.steps.length - 1);
    const [step, value] = [this.data.steps[index], this.data.values[index]];
    const [x, y] = [view.x(step), view.y(value)];
    pen.strokeStyle = colours.text;
    pen.globalAlpha = 0.5;
    pen.beginPath();
    pen.moveTo(Math.round(x) + 0.5, view.box.top);
    pen.lineTo(Math.round(x) + 0.5, view.box.bottom);
    pen.stroke();
    pen.globalAlpha = 1;
    if (Number.isFinite(y)) {
      pen.fillStyle = colours.line;
      pen.beginPath();
      pen.arc(x, y, 4, 0, 2 * Math.PI);
      pen.fill();
    }
    this.showTip(view, index, x);
  }

  showTip(view, index, x) {
    const { steps, values } = this.data;
    const lines = [`step ${steps[index].toLocaleString("en-US")}`, `${this.label.toLowerCase()} ${number(values[index], 5)}`];
    if (this.options.smoothing > 0) lines.push(`smoothed ${number(smooth(values.slice(0, index + 1), this.options.smoothing).at(-1), 5)}`);
    const near = (mark) => Math.abs(view.x(mark.step) - x) < 6;
    lines.push(...this.marks.alerts.filter(near).slice(0, 2).map((mark) => `▼ ${mark.text}`));
    lines.push(...this.marks.checkpoints.filter(near).slice(0, 1).map((mark) => `◆ ${mark.text}`));
    lines.push(...this.marks.evals.filter(near).slice(0, 2).map((mark) => `● ${mark.text}`));
    setText(this.tip, lines.join("\n"));
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${x + 14 + width > view.width ? Math.max(0, x - 14 - width) : x + 14}px`;
    this.tip.style.top = `${view.box.top + 6}px`;
  }

  // --- mouse, finger, keyboard --------------------------------------------------------------------

  nearest(pixel) {
    const { steps } = this.data;
    if (!steps.length) return null;
    const view = this.layout();
    let [low, high] = [0, steps.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (view.x(steps[middle]) < pixel) low = middle;
      else high = middle;
    }
    return pixel - view.x(steps[low]) < view.x(steps[high]) - pixel ? low : high;
  }

  listen() {
    const place = (event) => event.clientX - this.canvas.getBoundingClientRect().left;
    const look = (index) => {
      this.hover = index;
      this.schedule();
    };
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.drag) this.drag.to = place(event);
      look(this.nearest(place(event)));
    });
    this.canvas.addEventListener("pointerleave", () => look(null));
    this.canvas.addEventListener("blur", () => look(null));
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.onZoom || event.pointerType !== "mouse" || event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.drag = { from: place(event), to: place(event) };
    });
    this.canvas.addEventListener("pointerup", () => this.endDrag());
    this.canvas.addEventListener("pointercancel", () => {
      this.drag = null;
      this.schedule();
    });
    this.canvas.addEventListener("keydown", (event) => {
      const last = this.data.steps.length - 1;
      const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") look(null);
      if (jump === undefined || last < 0) return;
      event.preventDefault();
      look(Math.max(0, Math.min(last, (this.hover ?? last) + jump)));
    });
  }

  endDrag() {
    const drag = this.drag;
    this.drag = null;
    this.schedule();
    if (!drag || Math.abs(drag.to - drag.from) < 8) return;
    const view = this.layout();
    const step = (pixel) => view.first + ((pixel - view.box.left) / (view.box.right - view.box.left)) * (view.last - view.first);
    const [first, last] = [Math.min(drag.from, drag.to), Math.max(drag.from, drag.to)].map((pixel) => Math.round(step(pixel)));
    if (last > first) this.onZoom(Math.max(view.first, first), Math.min(view.last, last));
  }
}
