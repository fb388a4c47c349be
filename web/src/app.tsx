// The page: header, list of runs, and the panels in the visitor's order.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiPage } from "./api_page";
import { number } from "./format";
import { Help, useKeys } from "./help";
import { book, connection, now, stale, state, stream, useRun, view, go } from "./model";
import { notifying, switchNotifications } from "./notify";
import { useValue } from "./observable";
import { Skeleton, arranged, order, remember } from "./panel";
import { LossPanel, NormPanel, RatePanel, SpeedPanel } from "./panels/charts";
import { CheckpointsPanel } from "./panels/checkpoints";
import { ComparePanel } from "./panels/compare";
import { Declared } from "./panels/declared";
import { EvolutionPanel } from "./panels/evolution";
import { EventsPanel } from "./panels/events";
import { AlertsPanel, EvalsPanel } from "./panels/lists";
import { MemoryPanel } from "./panels/machine";
import { MetricsPanel } from "./panels/metrics";
import { PluginsPanel } from "./panels/plugins";
import { QueuePanel } from "./panels/queue";
import { RunList } from "./panels/runs";
import { AccuracyPanel, SamplesPanel } from "./panels/samples";
import { StatusPanel } from "./panels/status";
import { StepTimesPanel } from "./panels/step_times";
import { nextTheme, theme } from "./theme";
import { Toasts } from "./toasts";
import type { DeclaredPanel } from "./types";
import { DropTarget } from "./drop";

const PANELS: [id: string, panel: () => ComponentChildren][] = [
  ["loss", () => <LossPanel key="loss" />],
  ["alerts", () => <AlertsPanel key="alerts" />],
  ["lr", () => <RatePanel key="lr" />],
  ["norm", () => <NormPanel key="norm" />],
  ["speed", () => <SpeedPanel key="speed" />],
  ["metrics", () => <MetricsPanel key="metrics" />],
  ["samples", () => <SamplesPanel key="samples" />],
  ["evolution", () => <EvolutionPanel key="evolution" />],
  ["accuracy", () => <AccuracyPanel key="accuracy" />],
  ["checkpoints", () => <CheckpointsPanel key="checkpoints" />],
  ["memory", () => <MemoryPanel key="memory" />],
  ["evals", () => <EvalsPanel key="evals" />],
  ["plugins", () => <PluginsPanel key="plugins" />],
  ["steptimes", () => <StepTimesPanel key="steptimes" />],
  ["queue", () => <QueuePanel key="queue" />],
  ["events", () => <EventsPanel key="events" />],
];

const THEMES = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

function Connection() {
  const { phase } = useValue(connection);
  const loading = useValue(state, (value) => value?.loading ?? false);
  const word = useValue(stale) ? "stale" : loading ? "reading history" : phase === "live" ? "live" : "connecting";
  return (
    <div id="connection" class={`connection ${word.replace(" ", "-")}`} role="status">
      <span class="dot" />
      <span class="text">{word}</span>
    </div>
  );
}

function Banner() {
  const { phase, problem, retryAt } = useValue(connection);
  const old = useValue(stale);
  useValue(now, (at) => (old ? at : 0));
  if (!old) return null;
  const seconds = Math.max(0, Math.ceil(((retryAt ?? Date.now()) - Date.now()) / 1000));
  const next = phase === "waiting" && seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again now.";
  const age = Math.round(stream.silence() / 1000);
  return (
    <div id="banner" class="banner" role="alert">
      <span class="text">
        {problem ?? "The connection is silent."} {state.value ? `What you see is ${age} s old.` : ""} {next}
      </span>
      <button id="retry" type="button" onClick={() => stream.connect()}>
        Try now
      </button>
    </div>
  );
}

function Header({ help }: { help: () => void }) {
  const run = useRun();
  const role = useValue(state, (value) => value?.role);
  const runs = useValue(state, (value) => value?.runs) ?? [];
  const chosen = useValue(theme);
  const notified = useValue(notifying);
  const [symbol, text] = THEMES[chosen];
  return (
    <header class="top">
      <div class="brand">
        <img src="/static/icon.svg" alt="" width="24" height="24" />
        <span>trainbus</span>
      </div>
      {runs.length ? (
        <label class="picker">
          <span class="hidden">Run</span>
          <select id="run-picker" value={run?.run ?? ""} onChange={(event) => go({ run: event.currentTarget.value })}>
            {runs.map((one) => (
              <option key={one.run} value={one.run}>
                {one.run} · {one.state}
              </option>
            ))}
          </select>
        </label>
      ) : null}
      <div id="health" class={`health ${run?.health.level ?? ""}`} role="status" aria-live="polite">
        <span class="dot" />
        <span class="text">{run?.health.reason ?? (state.value ? "No run yet" : "Loading")}</span>
      </div>
      <div class="spacer" />
      {role ? (
        <span class="role" title={role === "operator" ? "You may steer runs" : "You may look, not steer"}>
          {role}
        </span>
      ) : null}
      <Connection />
      <button id="notify" type="button" class="quiet" aria-pressed={notified} title="Notify me of critical alerts" aria-label="Notify me of critical alerts" onClick={switchNotifications}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M3 11.5h10c-1-1-1.5-2-1.5-4.5a3.5 3.5 0 0 0-7 0c0 2.5-.5 3.5-1.5 4.5zM6.6 13.8a1.5 1.5 0 0 0 2.8 0" />
          {notified ? null : <path d="M2.5 2.5l11 11" />}
        </svg>
      </button>
      <button id="theme" type="button" class="quiet" title={`Colours: ${text}`} aria-label={`Colours: ${text}. Change`} onClick={nextTheme}>
        {symbol}
      </button>
      <button id="help" type="button" class="quiet" title="Keys (?)" aria-label="Keyboard help" onClick={help}>
        ?
      </button>
    </header>
  );
}

function Empty() {
  return (
    <section id="empty" class="empty">
      <img src="/static/icon.svg" alt="" width="56" height="56" />
      <h1>No run yet</h1>
      <p>This page fills itself as soon as a training publishes its first event. For example:</p>
      <pre>
        <code>{`import trainbus\n\nwith trainbus.init("my-run") as run:\n    for step in range(1000):\n        run.step(step, loss=loss)`}</code>
      </pre>
    </section>
  );
}

// What a visitor sees first is drawn first: the panels behind wait for the first series, or for this many ms.
const FIRST = 2;
const FIRST_PATIENCE = 400;

function Panels() {
  const begun = useValue(book.begun);
  const [all, setAll] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setAll(true), begun ? 0 : FIRST_PATIENCE);
    return () => clearTimeout(timer);
  }, [begun]);
  const wanted = useValue(order);
  const declared = JSON.parse(useValue(state, (value) => JSON.stringify(value?.panels ?? []))) as DeclaredPanel[];
  const table = new Map<string, () => ComponentChildren>(PANELS);
  for (const panel of declared) table.set(`${panel.plugin}-${panel.id}`, () => <Declared panel={panel} key={panel.key} />);
  const ids = arranged([...table.keys()], wanted);
  remember(ids);
  return <>{(all ? ids : ids.slice(0, FIRST)).map((id) => table.get(id)?.())}</>;
}

function Content() {
  // What stands on the page changes rarely; each panel looks after what stands in it.
  const found = useValue(state, (value) => (value?.run ? "run" : value ? (value.loading ? "loading" : "empty") : ""));
  const { compare, page } = useValue(view);
  if (page === "api") return <ApiPage />;
  if (!found) return <div class="grid"><section class="card full"><Skeleton rows={4} /></section></div>;
  if (found !== "run") return found === "loading" ? <div class="grid"><section class="card full"><p class="meta">Reading the history of the bus …</p><Skeleton rows={4} /></section></div> : <Empty />;
  return (
    <div class="columns">
      <RunList />
      <div class="grid" id="content">
        <StatusPanel />
        {compare.length ? <ComparePanel /> : null}
        <Panels />
      </div>
    </div>
  );
}

function Title() {
  const run = useRun();
  useEffect(() => {
    document.title = run ? `${number(run.step)} · ${run.run} · trainbus` : "trainbus";
  }, [run?.step, run?.run]);
  return null;
}

export function App() {
  const [helping, setHelping] = useState(false);
  const old = useValue(stale);
  useKeys(() => setHelping((open) => !open));
  return (
    <div class={old && state.value ? "is-stale" : ""}>
      <Title />
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>
        Skip to the charts
      </a>
      <Header help={() => setHelping(true)} />
      <Banner />
      <DropTarget />
      <main id="main" tabIndex={-1}>
        <Content />
      </main>
      <footer class="foot">
        <a href="#page=api" onClick={(event) => { event.preventDefault(); go({ page: view.value.page ? "" : "api" }); }}>
          {useValue(view).page ? "Back to the runs" : "API"}
        </a>
      </footer>
      <Toasts />
      {helping ? <Help close={() => setHelping(false)} /> : null}
    </div>
  );
}
