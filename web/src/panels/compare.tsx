// Runs laid over each other by step, time, examples or tokens, and what their configurations differ in.

import { useMemo, useState } from "preact/hooks";
import { COLOURS, Chart, saveDrawing, savePicture, smooth, type Curve } from "../chart";
import { go, smoothing, state, toggleCompared, useResource, view } from "../model";
import { duration, number, short } from "../format";
import { useValue } from "../observable";
import { Panel, Table } from "../panel";
import { useForeign } from "../series";
import type { RunDetail, Series } from "../types";

const AXES = { step: "step", elapsed_seconds: "time", examples: "examples", tokens: "tokens" } as const;
type Axis = keyof typeof AXES;

// The values of `axis` at the steps of a series: both are down-sampled, so the axis is read between its points.
export function placed(steps: number[], axis: Series | undefined): number[] {
  if (!axis?.steps.length) return [];
  let at = 0;
  return steps.map((step) => {
    while (at < axis.steps.length - 2 && axis.steps[at + 1] < step) at += 1;
    const [a, b] = [axis.steps[at], axis.steps[Math.min(at + 1, axis.steps.length - 1)]];
    const [from, to] = [axis.values[at], axis.values[Math.min(at + 1, axis.values.length - 1)]];
    return b > a ? from + ((to - from) * (step - a)) / (b - a) : from;
  });
}

function flat(config: Record<string, unknown>, before = ""): [string, string][] {
  return Object.entries(config).flatMap(([key, value]): [string, string][] =>
    value !== null && typeof value === "object" && !Array.isArray(value) ? flat(value as Record<string, unknown>, `${before}${key}.`) : [[before + key, JSON.stringify(value)]],
  );
}

function Configs({ runs }: { runs: string[] }) {
  const [all, setAll] = useState(false);
  // A hook for each run would change their number; one list of at most eight is asked for as a whole.
  const found = Array.from({ length: 8 }, (_, index) =>
    useResource<RunDetail>(runs[index] ? `/api/runs/${encodeURIComponent(runs[index])}` : "", [], runs[index] ?? ""),
  ).slice(0, runs.length);
  const tables = found.map((one) => new Map(flat(one.data?.config ?? {})));
  const keys = [...new Set(tables.flatMap((table) => [...table.keys()]))].sort();
  const different = keys.filter((key) => new Set(tables.map((table) => table.get(key))).size > 1);
  const figures: [string, (run: RunDetail) => string][] = [
    ["step", (run) => number(run.step)],
    ["lowest loss", (run) => (run.best ? `${number(run.best.loss)} at ${number(run.best.step)}` : "–")],
    ["accuracy", (run) => (run.accuracy.overall === null ? "–" : `${(run.accuracy.overall * 100).toFixed(1)} %`)],
    ["steps/s", (run) => number(run.steps_per_second, 3)],
  ];
  return (
    <>
      <div class="head">
        <h3>Figures and configuration</h3>
        <label class="control">
          <input type="checkbox" checked={all} onChange={(event) => setAll(event.currentTarget.checked)} /> also what is the same
        </label>
      </div>
      <Table
        label="Configurations"
        columns={[["Key", "grow"], ...runs.map((run): [string] => [run])]}
        rows={[
          ...figures.map(([name, say]) => ({ key: `= ${name}`, cells: [<b>{name}</b>, ...found.map((one) => (one.data ? say(one.data) : "…"))] })),
          ...(all ? keys : different).map((key) => ({ key, cells: [different.includes(key) ? <b>{key}</b> : key, ...tables.map((table) => table.get(key) ?? "–")] })),
        ]}
      />
    </>
  );
}

export function ComparePanel() {
  const { compare } = useValue(view);
  const found = useValue(state);
  const weight = useValue(smoothing);
  const [metric, setMetric] = useState("loss");
  const [axis, setAxis] = useState<Axis>("step");
  const runs = (found?.runs ?? []).filter((run) => compare.includes(run.run));
  const names = [...new Set(runs.flatMap((run) => run.series))].sort();
  const moved = runs.map((run) => Math.floor((run.step ?? 0) / 20)).join();
  const { series, problem } = useForeign(runs.map((run) => run.run), axis === "step" ? [metric] : [metric, axis], 800, moved);
  const ids = runs.map((run) => run.run).join("\n");
  const curves = useMemo(() => runs.map((run, index): Curve => {
    const [values, positions] = series.get(run.run) ?? [];
    const y = values ? (weight > 0 ? smooth(values.values, weight) : values.values) : [];
    return { name: run.run, x: axis === "step" ? (values?.steps ?? []) : placed(values?.steps ?? [], positions), y, colour: COLOURS[index % COLOURS.length] };
  }), [series, axis, weight, ids]);
  return (
    <Panel
      id="compare"
      title="Comparison"
      span="full"
      count={`${runs.length} runs`}
      stale={problem ? "not refreshed" : ""}
      tools={
        <>
          <label class="control">
            Metric
            <select id="compare-metric" value={metric} onChange={(event) => setMetric(event.currentTarget.value)}>
              {names.map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </label>
          <label class="control">
            by
            <select id="compare-axis" value={axis} onChange={(event) => setAxis(event.currentTarget.value as Axis)}>
              {Object.entries(AXES).map(([value, name]) => (
                <option key={value} value={value}>
                  {name}
                </option>
              ))}
            </select>
          </label>
          <button type="button" class="quiet small" onClick={() => savePicture("chart-compare", `compare-${metric}`)}>
            Save PNG
          </button>
          <button type="button" class="quiet small" onClick={() => saveDrawing("chart-compare", `compare-${metric}`)}>
            Save SVG
          </button>
          <button type="button" class="quiet small" onClick={() => go({ compare: [] })}>
            Close
          </button>
        </>
      }
    >
      <ul class="legend">
        {runs.map((run, index) => (
          <li key={run.run}>
            <span class="swatch" style={{ background: `var(${COLOURS[index % COLOURS.length]})` }} /> {run.run}
            <button type="button" class="plain" aria-label={`Leave out ${run.run}`} onClick={() => toggleCompared(run.run)}>
              ✕
            </button>
          </li>
        ))}
      </ul>
      <Chart id="chart-compare" label={`${metric} of ${runs.length} runs`} curves={curves} height={300} xName={AXES[axis]} formatX={axis === "elapsed_seconds" ? duration : axis === "step" ? undefined : short} />
      <Configs runs={runs.map((run) => run.run)} />
    </Panel>
  );
}
