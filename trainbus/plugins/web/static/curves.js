// The charts of one run: fetches their series down-sampled to the screen's width and appends live points.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { byId, setText } from "./dom.js";
import { number } from "./format.js";

// The first of these names that the run publishes is drawn.
const NAMES = {
  loss: ["loss", "train_loss"],
  lr: ["learning_rate", "lr"],
  norm: ["grad_norm", "gradient_norm"],
  speed: ["tokens_per_second", "samples_per_second", "train_samples_per_second", "steps_per_second"],
};
const EVAL_LOSS = ["loss", "eval_loss", "val_loss"];

// So many live points are drawn before the series is fetched again, down-sampled.
const LIVE_POINTS = 600;

export class Curves {
  constructor() {
    this.charts = {
      loss: new Chart(byId("chart-loss"), { label: "Loss", onZoom: (first, last) => this.zoom([first, last]) }),
      lr: new Chart(byId("chart-lr"), { label: "Learning rate", colour: "--second", small: true }),
      norm: new Chart(byId("chart-norm"), { label: "Gradient norm", colour: "--third", small: true }),
      speed: new Chart(byId("chart-speed"), { label: "Throughput", colour: "--fourth", small: true }),
    };
    this.chosen = {};
    this.data = {};
    this.range = null;
    this.run = null;
    this.live = 0;
    this.meanwhile = [];
    this.controls();
  }

  controls() {
    const loss = this.charts.loss;
    const [smoothing, log] = [byId("smoothing"), byId("log")];
    const apply = () => {
      loss.options = { smoothing: Number(smoothing.value), logarithmic: log.checked };
      smoothing.setAttribute("aria-valuetext", `${Math.round(smoothing.value * 100)} %`);
      localStorage.setItem("trainbus-chart", JSON.stringify(loss.options));
      loss.schedule();
    };
    try {
      const saved = JSON.parse(localStorage.getItem("trainbus-chart") ?? "{}");
      if (saved.smoothing !== undefined) smoothing.value = saved.smoothing;
      log.checked = saved.logarithmic === true;
    } catch {
      localStorage.removeItem("trainbus-chart");
    }
    smoothing.addEventListener("input", apply);
    log.addEventListener("change", apply);
    byId("unzoom").addEventListener("click", () => this.zoom(null));
    byId("chart-loss").addEventListener("dblclick", () => this.zoom(null));
    apply();
  }

  // Fetch all series of a run again. Gives the offset up to which they know the run, or null when nothing is published yet.
  async fetch(run) {
    if (this.run !== run.run) this.range = null;
    this.run = run.run;
    this.chosen = Object.fromEntries(Object.entries(NAMES).map(([chart, names]) => [chart, names.find((name) => run.series.includes(name))]));
    const wanted = [...new Set(Object.values(this.chosen).filter(Boolean))];
    this.live = 0;
    this.meanwhile = [];
    byId("unzoom").hidden = this.range === null;
    if (!wanted.length) {
      this.data = {};
      this.show();
      return null;
    }
    const points = Math.min(2000, Math.max(300, this.charts.loss.width));
    const parameters = wanted.map((name) => ["metric", name]).concat([["points", points]]);
    if (this.range) parameters.push(["from", this.range[0]], ["to", this.range[1]]);
    const answer = await get(`/api/runs/${encodeURIComponent(run.run)}/series`, parameters);
    if (this.run !== run.run) return null;
    this.data = Object.fromEntries(answer.series.map((series) => [series.metric, series]));
    // Steps that came while the answer was on its way are not in it.
    for (const [event, derived] of this.meanwhile.splice(0)) if (event.offset > answer.offset) this.append(event, derived);
    this.show();
    return answer.offset;
  }

  // Append a live step. True when the series should be fetched again: a step came twice, a new metric appeared, or too many points.
  add(event, derived) {
    if (event.rank || this.range) return false;
    this.meanwhile.push([event, derived]);
    if (this.meanwhile.length > LIVE_POINTS) this.meanwhile.shift();
    const again = this.append(event, derived);
    this.live += 1;
    this.show();
    return again || this.live > LIVE_POINTS;
  }

  append(event, derived) {
    const broken = new Set(Object.keys(event.not_finite ?? {}));
    const metrics = { ...event.metrics };
    if (derived !== null && this.chosen.speed === "steps_per_second") metrics.steps_per_second = derived;
    let again = false;
    for (const [name, value] of Object.entries(metrics)) {
      const series = this.data[name];
      if (!series) {
        again ||= Object.values(NAMES).flat().includes(name) && !Object.values(this.chosen).includes(name);
      } else if (value === null && broken.has(`metrics.${name}`)) {
        series.gaps.push({ first: event.step, last: event.step, count: 1, kind: "nan" });
        again = true;
      } else if (series.steps.length && event.step <= series.steps.at(-1)) {
        again = true;
      } else {
        series.steps.push(event.step);
        series.values.push(value);
      }
    }
    return again;
  }

  marks(run) {
    const seen = (list) => list.filter((entry) => entry.step !== null);
    const evals = run.evals.flatMap((result) => {
      const name = EVAL_LOSS.find((candidate) => typeof result.metrics[candidate] === "number");
      return name ? [{ step: result.step, value: result.metrics[name], text: `${result.dataset || "eval"} ${name} ${number(result.metrics[name])}` }] : [];
    });
    this.lossMarks = {
      alerts: seen(run.alerts).map((alert) => ({ step: alert.step, severity: alert.severity, text: alert.message || alert.rule })),
      checkpoints: run.checkpoints.map((checkpoint) => ({ step: checkpoint.step, deleted: checkpoint.state === "deleted", text: `checkpoint ${checkpoint.state}` })),
      evals,
    };
    this.legend();
    this.show();
  }

  legend() {
    const { alerts, checkpoints, evals } = this.lossMarks;
    const entries = [["alert", "▼ alerts", alerts.length], ["checkpoint", "◆ checkpoints", checkpoints.length], ["eval", "● evaluation", evals.length]];
    const items = entries.filter(([, , shown]) => shown).map(([name, text]) => {
      const item = document.createElement("li");
      item.className = name;
      item.textContent = text;
      return item;
    });
    byId("loss-legend").replaceChildren(...items);
  }

  show() {
    for (const [name, chart] of Object.entries(this.charts)) {
      const series = this.data[this.chosen[name]];
      chart.set(series, name === "loss" ? this.lossMarks ?? chart.marks : chart.marks);
      const now = byId(`now-${name}`);
      if (now) setText(now, series?.values.length ? number(series.values.at(-1), 3) : "");
    }
    setText(byId("speed-title"), { steps_per_second: "Steps per second", tokens_per_second: "Tokens per second" }[this.chosen.speed] ?? "Throughput");
  }

  zoom(range) {
    this.range = range;
    this.onRange?.();
  }

  redraw() {
    for (const chart of Object.values(this.charts)) chart.schedule();
  }
}
