// Panels that plugins declare: chart, table, text or gauge, drawn from events.

import { Chart } from "../chart";
import { useResource, useRun } from "../model";
import { clock, number } from "../format";
import { Panel, Table, Waiting, staleOf } from "../panel";
import type { DeclaredPanel } from "../types";

interface Row {
  offset: number;
  run: string;
  time: number;
  x: unknown;
  values: unknown[];
}

function said(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return number(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function Drawn({ panel, rows }: { panel: DeclaredPanel; rows: Row[] }) {
  const newest = rows[rows.length - 1];
  if (panel.kind === "chart") {
    const timed = panel.x === "time";
    const points = rows.filter((row) => typeof row.x === "number").map((row) => ({ x: timed ? (row.x as number) / 1e9 : (row.x as number), values: row.values }));
    points.sort((a, b) => a.x - b.x);
    const unique = points.filter((point, index) => index === points.length - 1 || points[index + 1].x !== point.x);
    const curves = panel.fields.map((field, index) => ({
      name: field,
      x: unique.map((point) => point.x),
      y: unique.map((point) => (typeof point.values[index] === "number" ? (point.values[index] as number) : null)),
    }));
    return <Chart id={`chart-${panel.plugin}-${panel.id}`} label={panel.title} curves={curves} small xName={timed ? "at" : panel.x} formatX={timed ? (x) => clock(x * 1e9) : undefined} />;
  }
  if (panel.kind === "table") {
    return (
      <Table
        label={panel.title}
        columns={panel.fields.map((field, index) => [field, typeof newest.values[index] === "number" ? "num" : undefined])}
        rows={rows.slice(-200).reverse().map((row) => ({ key: row.offset, cells: row.values.map(said) }))}
      />
    );
  }
  return (
    <div class="figures">
      {panel.fields.map((field, index) => (
        <div class="figure" key={field}>
          <span class="label">{field}</span>
          <span class={panel.kind === "gauge" ? "value gauge" : "value"}>{said(newest.values[index])}</span>
        </div>
      ))}
    </div>
  );
}

export function Declared({ panel }: { panel: DeclaredPanel }) {
  const run = useRun();
  const [plugin, id] = [panel.plugin, panel.id].map(encodeURIComponent);
  const resource = useResource<{ rows: Row[] }>(`/api/panels/${plugin}/${id}`, run ? [["run", run.run]] : [], panel.newest);
  const rows = resource.data?.rows ?? [];
  return (
    <Panel id={`${panel.plugin}-${panel.id}`} title={panel.title} span="narrow" count={panel.plugin} stale={staleOf(resource)}>
      <Waiting resource={resource} empty={!rows.length} none={`No ${panel.events} event yet.`} />
      {rows.length ? <Drawn panel={panel} rows={rows} /> : null}
    </Panel>
  );
}
