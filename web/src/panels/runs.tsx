// All runs with the shape of their loss; the shown one is marked, others can be compared.

import { useState } from "preact/hooks";
import { go, now, state, toggleCompared, view } from "../model";
import { number, percent } from "../format";
import { useValue } from "../observable";
import type { RunSummary } from "../types";

const [WIDTH, HEIGHT] = [72, 22];

export function Spark({ values }: { values: number[] }) {
  if (values.length < 2) return <svg class="spark" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true" />;
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const points = values.map((value, index) => `${((index / (values.length - 1)) * WIDTH).toFixed(1)},${(HEIGHT - 2 - ((value - low) / (high - low || 1)) * (HEIGHT - 4)).toFixed(1)}`);
  return (
    <svg class="spark" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      <polyline points={points.join(" ")} />
    </svg>
  );
}

function ago(nanoseconds: number, at: number): string {
  const seconds = Math.max(0, at / 1000 - nanoseconds / 1e9);
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} d ago`;
}

function Entry({ run, current, compared, at }: { run: RunSummary; current: boolean; compared: boolean; at: number }) {
  const progress = run.total_steps && run.step !== null ? percent(run.step / run.total_steps) : run.step === null ? "" : number(run.step);
  return (
    <li class={`run ${current ? "current" : ""}`}>
      <button type="button" class="open" aria-current={current ? "true" : undefined} onClick={() => go({ run: run.run })} title={run.health.reason}>
        <span class={`health ${run.health.level}`}>
          <span class="dot" />
        </span>
        <span class="name">{run.run}</span>
        <span class="meta">
          {run.state} · {run.state === "running" && progress ? progress : ago(run.updated, at)}
        </span>
        <Spark values={run.spark} />
      </button>
      <label class="pick" title="Compare">
        <input type="checkbox" checked={compared} aria-label={`Compare ${run.run}`} onChange={() => toggleCompared(run.run)} />
      </label>
    </li>
  );
}

export function RunList() {
  const found = useValue(state);
  const { compare } = useValue(view);
  const at = useValue(now);
  const [search, setSearch] = useState("");
  const runs = found?.runs ?? [];
  const shown = runs.filter((run) => `${run.run} ${run.name} ${run.state} ${run.host}`.toLowerCase().includes(search.toLowerCase()));
  const running = runs.filter((run) => run.state === "running").length;
  return (
    <nav class="runs" aria-label="Runs">
      <div class="head">
        <h2>Runs</h2>
        <span class="count">
          {runs.length}
          {running ? `, ${running} running` : ""}
        </span>
      </div>
      {runs.length > 5 ? <input id="runs-search" type="search" placeholder="Search runs" aria-label="Search runs" value={search} onInput={(event) => setSearch(event.currentTarget.value)} /> : null}
      <ul id="runs">
        {shown.map((run) => (
          <Entry key={run.run} run={run} current={run.run === found?.run?.run} compared={compare.includes(run.run)} at={at} />
        ))}
      </ul>
    </nav>
  );
}
