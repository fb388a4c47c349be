// The page: asks the server for the state of one run, draws it, and keeps it fresh from the stream of events.

import { ApiError, STALE_AFTER, Stream, get } from "./api.js";
import { Curves } from "./curves.js";
import { byId, setText } from "./dom.js";
import { number } from "./format.js";
import * as panels from "./panels.js";
import { Tail } from "./tail.js";

// Details are fetched again at most this often, in ms, however many events come.
const REFRESH_PAUSE = 1000;
const IDLE_REFRESH = 5000;
const RECENT_EVENTS = 40;

const curves = new Curves();
const tail = new Tail();
const page = { state: null, offset: -1, wanted: readHash(), connection: { phase: "connecting" }, lastStep: null };
const stream = new Stream({ resume, onEvent, onState });

function readHash() {
  return new URLSearchParams(location.hash.slice(1)).get("run") ?? "";
}

// --- fetching -------------------------------------------------------------------------------------

async function fetchState() {
  const state = await get("/api/state", page.wanted ? [["run", page.wanted]] : []);
  if (page.wanted && !state.run && state.runs.length && !state.loading) {
    page.wanted = "";
    return fetchState();
  }
  page.state = state;
  draw();
  return state;
}

// Bring everything up to date; gives the offset after which the stream must continue.
async function resume() {
  const state = await fetchState();
  const known = state.run ? await curves.fetch(state.run) : null;
  page.offset = known ?? state.offset;
  // The stream begins a little earlier, so that the list of events is not empty; what the charts know already is skipped.
  return Math.max(-1, Math.min(page.offset, state.offset) - RECENT_EVENTS);
}

const refresh = { timer: null, last: 0, series: false, busy: false };

function scheduleRefresh({ series = false } = {}) {
  refresh.series ||= series;
  if (refresh.timer !== null || refresh.busy) return;
  const wait = Math.max(0, refresh.last + REFRESH_PAUSE - Date.now());
  refresh.timer = setTimeout(runRefresh, wait);
}

async function runRefresh() {
  refresh.timer = null;
  if (document.hidden) return;
  refresh.busy = true;
  const series = refresh.series;
  refresh.series = false;
  try {
    const state = await fetchState();
    const missing = state.run && !curves.chosen.loss && state.run.series.length > 0;
    if (state.run && (series || missing || curves.run !== state.run.run)) page.offset = Math.max(page.offset, (await curves.fetch(state.run)) ?? -1);
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof TypeError)) throw error;
    refresh.series ||= series; // The stream notices a lost server and says so; what is shown stays.
  } finally {
    refresh.busy = false;
    refresh.last = Date.now();
    if (refresh.series && page.connection.phase === "live") scheduleRefresh();
  }
}

// --- events ---------------------------------------------------------------------------------------

let tailDrawn = true;

function onEvent(event) {
  if (!tail.events.some((other) => other.offset === event.offset)) tail.add(event);
  if (tailDrawn) {
    tailDrawn = false;
    requestAnimationFrame(() => {
      tailDrawn = true;
      tail.draw();
    });
  }
  if (event.offset <= page.offset) return;
  page.offset = event.offset;
  const ours = page.state?.run?.run === event.run;
  if (ours && event.kind === "step") scheduleRefresh({ series: curves.add(event, pace(event)) });
  else scheduleRefresh({ series: event.kind === "run_started" || event.kind === "metric" });
}

// Steps per second between this step and the one before, as the server derives it.
function pace(event) {
  const last = page.lastStep;
  page.lastStep = event;
  if (!last || last.run !== event.run || event.step <= last.step || event.time <= last.time) return null;
  return ((event.step - last.step) / (event.time - last.time)) * 1e9;
}

// --- drawing --------------------------------------------------------------------------------------

function draw() {
  const { state } = page;
  const { run } = state;
  document.body.classList.remove("is-loading");
  byId("empty").hidden = Boolean(run) || state.loading;
  byId("content").hidden = !run;
  document.body.classList.toggle("is-filling", state.loading);
  document.querySelector(".picker").hidden = state.runs.length === 0;
  panels.picker(state.runs, run?.run ?? "");
  panels.header(run);
  document.title = run ? `${number(run.step)} · ${run.run} · trainbus` : "trainbus";
  drawConnection();
  if (!run) return;
  panels.status(run);
  nameBroken(run, new Set(Object.keys(state.not_finite ?? {})));
  const closed = (alert) => Number(alert.state === "cleared");
  panels.alerts([...run.alerts, ...state.alerts].sort((a, b) => closed(a) - closed(b) || b.offset - a.offset));
  panels.checkpoints(run.checkpoints);
  panels.evals(run.evals);
  panels.samples(run.samples);
  panels.memory(state.systems);
  panels.plugins(state.plugins);
  curves.marks(run);
}

// Evidence that is NaN comes as null with its path beside it; the NaN is often the very point of the alert.
function nameBroken(run, broken) {
  run.alerts.forEach(({ evidence }, index) => {
    for (const name of Object.keys(evidence)) if (broken.has(`run.alerts.${index}.evidence.${name}`)) evidence[name] = "not finite";
  });
}

function onState(connection) {
  page.connection = connection;
  drawConnection();
}

function drawConnection() {
  const { phase, retryAt, problem } = page.connection;
  const silent = stream.silence() > STALE_AFTER;
  const stale = phase !== "live" ? silent || phase === "waiting" : silent;
  const word = stale ? "stale" : page.state?.loading ? "reading history" : phase === "live" ? "live" : "connecting";
  const element = byId("connection");
  element.className = `connection ${word.replace(" ", "-")}`;
  setText(element.querySelector(".text"), word);
  document.body.classList.toggle("is-stale", stale && page.state !== null);
  byId("banner").hidden = !stale;
  if (!stale) return;
  const seconds = Math.max(0, Math.ceil(((retryAt ?? Date.now()) - Date.now()) / 1000));
  const age = Math.round(stream.silence() / 1000);
  const next = phase === "waiting" && seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again now.";
  setText(byId("banner").querySelector(".text"), `${problem ?? "The connection is silent."} What you see is ${age} s old. ${next}`);
}

// --- controls -------------------------------------------------------------------------------------

const THEMES = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

function drawTheme() {
  const [symbol, text] = THEMES[document.documentElement.dataset.theme ?? ""];
  const button = byId("theme");
  setText(button, symbol);
  button.title = `Colours: ${text}`;
  button.setAttribute("aria-label", `Colours: ${text}. Change`);
  curves.redraw();
}

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("trainbus-theme", next);
  drawTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);

byId("run-picker").addEventListener("change", (event) => {
  location.hash = new URLSearchParams({ run: event.target.value }).toString();
});
addEventListener("hashchange", () => {
  page.wanted = readHash();
  page.lastStep = null;
  scheduleRefresh({ series: true });
});
byId("retry").addEventListener("click", () => stream.connect());
curves.onRange = () => scheduleRefresh({ series: true });

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) scheduleRefresh({ series: true });
});
setInterval(drawConnection, 1000);
setInterval(() => {
  // Ages and estimates change without events; while history is read, so does everything.
  if (page.connection.phase === "live" && (page.state?.loading || Date.now() - refresh.last > IDLE_REFRESH)) scheduleRefresh({ series: page.state?.loading });
}, 1000);

drawTheme();
tail.draw();
stream.connect();
