// The panels below the charts: each draws one part of the server's answer, and says so when there is nothing to draw.

import { byId, el, nothing, pill, redraw, setText, table } from "./dom.js";
import { bytes, clock, duration, number, percent } from "./format.js";

const TONES = {
  running: "ok", completed: "info", stopped: "", failed: "critical", lost: "critical", unknown: "",
  starting: "info", stuck: "warning",
  raised: "critical", updated: "warning", cleared: "ok",
  complete: "ok", writing: "info", deleted: "",
  critical: "critical", warning: "warning", info: "info",
  high: "critical", medium: "warning", low: "ok",
};
const SYMBOLS = { critical: "!!", warning: "!", info: "i" };

export const tone = (word) => TONES[word] ?? "";

function metrics(values) {
  const entries = Object.entries(values ?? {});
  if (!entries.length) return "–";
  return el("span", { class: "metrics" }, entries.map(([name, value]) => el("span", {}, el("i", {}, name), " ", number(value))));
}

function count(id, total, word) {
  setText(byId(id), total ? `${total} ${word}` : "");
}

export function header(run) {
  const element = byId("health");
  const level = run?.health.level ?? "unknown";
  element.className = `health ${level}`;
  element.title = run?.health.reason ?? "";
  setText(element.querySelector(".text"), run?.health.reason ?? "No run yet");
}

export function status(run) {
  const { metrics: latest } = run;
  const loss = run.broken_metrics.includes("loss") ? "NaN" : number(latest.loss);
  const figures = [
    ["State", pill(run.state, tone(run.state))],
    ["Step", run.total_steps ? `${number(run.step)} / ${number(run.total_steps)}` : number(run.step)],
    ["Loss", el("span", { class: loss === "NaN" ? "bad" : "" }, loss)],
    ["Best loss", run.best ? `${number(run.best.loss)} @ ${number(run.best.step)}` : "–"],
    ["Speed", run.steps_per_second ? `${number(run.steps_per_second, 3)} steps/s` : "–"],
    ["Epoch", number(run.epoch, 3)],
    ["Tokens", number(run.tokens)],
  ].filter(([name, value]) => !(["Epoch", "Tokens"].includes(name) && value === "–"));
  redraw(byId("figures"), [run.state, loss, run.step, run.total_steps, run.best, run.steps_per_second, run.epoch, run.tokens], () =>
    figures.map(([name, value]) => el("div", { class: "figure" }, el("span", { class: "label" }, name), el("span", { class: "value" }, value))),
  );
  const done = run.total_steps && run.step !== null ? Math.min(1, run.step / run.total_steps) : run.state === "completed" ? 1 : null;
  const bar = byId("progress");
  bar.classList.toggle("unknown", done === null);
  bar.classList.toggle("ended", run.state !== "running");
  bar.firstElementChild.style.width = `${(done ?? 0) * 100}%`;
  if (done === null) bar.removeAttribute("aria-valuenow");
  else bar.setAttribute("aria-valuenow", Math.round(done * 100));
  const phase = run.phase ? `${run.phase.name}${run.phase.progress === null ? "" : ` ${percent(run.phase.progress)}`}` : "";
  setText(byId("phase"), [done === null ? "" : percent(done), phase, run.reason, run.missing ? `${run.missing} events missing` : ""].filter(Boolean).join(" · "));
  const elapsed = run.started ? duration((run.updated - run.started) / 1e9) : "";
  setText(byId("eta"), [elapsed && `running for ${elapsed}`, run.eta === null ? "" : `about ${duration(run.eta)} left`].filter(Boolean).join(" · "));
}

function alertItem(alert) {
  const facts = Object.entries(alert.evidence ?? {}).map(([name, value]) => [
    el("dt", {}, name),
    el("dd", {}, typeof value === "object" && value !== null ? JSON.stringify(value) : String(value)),
  ]);
  const cleared = alert.state === "cleared";
  return el(
    "details",
    { class: `alert ${cleared ? "cleared" : alert.severity}`, "data-key": alert.id || `${alert.rule}@${alert.offset}` },
    el(
      "summary",
      {},
      el("span", { class: "symbol", "aria-hidden": "true" }, SYMBOLS[alert.severity] ?? "•"),
      el("span", { class: "message" }, alert.message || alert.rule),
      el("span", { class: "meta" }, [alert.severity, cleared ? "cleared" : alert.state, alert.step === null ? "" : `step ${number(alert.step)}`, clock(alert.time)].filter(Boolean).join(" · ")),
    ),
    alert.advice ? el("p", { class: "advice" }, alert.advice) : null,
    el("dl", {}, el("dt", {}, "rule"), el("dd", {}, [alert.plugin, alert.rule].filter(Boolean).join(" / ") || "–"), facts),
  );
}

export function alerts(list) {
  const standing = list.filter((alert) => alert.state !== "cleared").length;
  setText(byId("alerts-count"), list.length ? `${standing} open, ${list.length - standing} cleared` : "");
  redraw(byId("alerts"), list, () => (list.length ? list.map(alertItem) : nothing("Nothing unusual so far.")));
}

export function checkpoints(list) {
  count("checkpoints-count", list.filter((checkpoint) => checkpoint.state === "complete").length, "kept");
  const headings = [["Step", "num"], ["State", ""], ["Size", "num"], ["Metrics", ""], ["Why", "grow"], ["Time", "num"]];
  const rows = list.map((checkpoint) => ({
    tone: checkpoint.state === "deleted" ? "faded" : "",
    cells: [
      number(checkpoint.step),
      pill(checkpoint.state, tone(checkpoint.state)),
      bytes(checkpoint.bytes),
      metrics(checkpoint.metrics),
      el("span", { title: checkpoint.path }, checkpoint.reason || checkpoint.path.split("/").at(-1) || "–"),
      clock(checkpoint.time),
    ],
  }));
  redraw(byId("checkpoints"), list, () => (rows.length ? table(headings, rows) : nothing("No checkpoint yet.")));
}

export function evals(list) {
  count("evals-count", list.length, list.length === 1 ? "result" : "results");
  const headings = [["Step", "num"], ["Set", ""], ["Metrics", "grow"]];
  const rows = list.map((result) => ({
    tone: "",
    cells: [
      number(result.step),
      [result.dataset || "live model", result.examples ? ` · ${number(result.examples)}` : ""].join(""),
      metrics(result.metrics),
    ],
  }));
  redraw(byId("evals"), list, () => (rows.length ? table(headings, rows) : nothing("No evaluation yet.")));
}

function sampleItem(sample) {
  const verdict = sample.correct === null ? ["·", "", "not scored"] : sample.correct ? ["✓", "right", "correct"] : ["✗", "wrong", "wrong"];
  const part = (name, text) => (text === null ? null : [el("dt", {}, name), el("dd", {}, text)]);
  return el(
    "details",
    { class: `sample ${verdict[1]}`, "data-key": `sample-${sample.offset}` },
    el(
      "summary",
      {},
      el("span", { class: "symbol", title: verdict[2], role: "img", "aria-label": verdict[2] }, verdict[0]),
      el("span", { class: "message" }, sample.prompt),
      el("span", { class: "answer" }, sample.answer ?? "–"),
      el("span", { class: "meta" }, `step ${number(sample.step)}`),
    ),
    el("dl", {}, part("prompt", sample.prompt), part("expected", sample.expected), part("answer", sample.answer), part("set", sample.dataset || null), sample.loss === null ? null : part("loss", number(sample.loss))),
  );
}

export function samples(list) {
  const scored = list.filter((sample) => sample.correct !== null);
  const right = scored.filter((sample) => sample.correct).length;
  setText(byId("samples-count"), scored.length ? `${right} of the last ${scored.length} correct` : list.length ? `${list.length}` : "");
  redraw(byId("samples"), list, () => (list.length ? list.map(sampleItem) : nothing("No sample yet. They come from the trainer, or from the inference plugin after each checkpoint.")));
}

function meter(name, used, total, levels = [0.7, 0.85], text = null) {
  const known = total > 0 && used !== null && used !== undefined;
  const share = known ? used / total : 0;
  const level = share >= levels[1] ? "critical" : share >= levels[0] ? "warning" : "ok";
  const fill = el("div", { class: `fill ${level}` });
  fill.style.width = `${Math.min(1, share) * 100}%`;
  const label = text ?? (known ? `${bytes(used)} of ${bytes(total)} · ${percent(share)}` : "unknown");
  const bar = el("div", { class: "bar", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100), "aria-valuetext": label }, fill);
  return el("div", { class: "meter" }, el("div", { class: "line" }, el("span", {}, name), el("span", { class: "label" }, label)), bar);
}

function gpu(device) {
  const facts = [
    device.utilization === null ? "" : `${number(device.utilization)} % busy`,
    device.temperature === null ? "" : `${number(device.temperature)} °C`,
    device.power === null ? "" : `${number(device.power)} W`,
  ].filter(Boolean);
  return [meter(`GPU ${device.index} ${device.name}`, device.memory_used, device.memory_total, [0.9, 0.97]), facts.length ? el("p", { class: "facts" }, facts.join(" · ")) : null];
}

function machine(system) {
  const parts = [el("h3", {}, system.host || "this machine", system.risk ? pill(`${system.risk} risk`, tone(system.risk)) : null)];
  if (system.reason) parts.push(el("p", { class: "facts" }, system.reason));
  if (system.memory) parts.push(meter("RAM", system.memory.used ?? 0, system.memory.total ?? 0));
  if (system.swap?.total) parts.push(meter("Swap", system.swap.used ?? 0, system.swap.total, [0.25, 0.5]));
  parts.push(...system.gpus.flatMap(gpu));
  const facts = [];
  if (system.cpu_percent !== null) facts.push(`CPU ${number(system.cpu_percent, 3)} %`);
  if (system.pressure?.some !== undefined && system.pressure?.some !== null) facts.push(`memory pressure ${number(system.pressure.some, 3)} %`);
  facts.push(...system.disks.map((disk) => `${disk.path}: ${bytes(disk.free ?? 0)} free`));
  facts.push(...Object.entries(system.unknown).map(([name, why]) => `${name} unknown: ${why}`));
  if (facts.length) parts.push(el("p", { class: "facts" }, facts.join(" · ")));
  if (system.processes.length) {
    const rows = system.processes.map((process) => ({
      tone: "",
      cells: [process.role || process.name || `process ${process.pid}`, number(process.processes ?? 1), bytes(process.rss ?? 0)],
    }));
    parts.push(table([["Process tree", "grow"], ["Processes", "num"], ["Resident", "num"]], rows));
  }
  return parts;
}

export function memory(systems) {
  redraw(byId("memory"), systems, () => (systems.length ? systems.flatMap(machine) : nothing("No machine reports its memory. The memory plugin does.")));
}

export function plugins(list) {
  const headings = [["Plugin", ""], ["State", ""], ["Lag", "num"], ["Restarts", "num"], ["Dead letters", "num"], ["Error", "grow"]];
  const rows = list.map((plugin) => ({
    tone: "",
    cells: [
      el("span", { title: plugin.version }, plugin.name),
      pill(plugin.state, tone(plugin.state)),
      number(plugin.lag),
      number(plugin.restarts),
      number(plugin.dead_letters),
      el("span", { class: plugin.error ? "bad" : "" }, plugin.error || "–"),
    ],
  }));
  redraw(byId("plugins"), list, () => (rows.length ? table(headings, rows) : nothing("No plugin has reported yet.")));
}

export function picker(runs, chosen) {
  redraw(byId("run-picker"), [runs.map((run) => [run.run, run.name, run.state]), chosen], () =>
    runs.map((run) => el("option", { value: run.run, selected: run.run === chosen }, `${run.run} · ${run.state}`)),
  );
}
