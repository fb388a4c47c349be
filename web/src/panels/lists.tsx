// Alerts and evaluations.

import { useMemo, useState } from "preact/hooks";
import { Chart } from "../chart";
import { book, state, useList, useRun } from "../model";
import { clock, duration, number } from "../format";
import { useValue } from "../observable";
import { Panel, Table, Waiting, staleOf } from "../panel";
import { useForeign } from "../series";
import { curveOf } from "./charts";
import type { Alert, Evaluation } from "../types";

const SYMBOLS = { critical: "!", warning: "!", info: "i" };

export const Metrics = ({ values }: { values: Record<string, number | null> }) => (
  <span class="metrics">
    {Object.entries(values).map(([name, value]) => (
      <span key={name}>
        <i>{name}</i> {value === null ? "not finite" : number(value)}
      </span>
    ))}
  </span>
);

// The metric around the step of an alert: what a rule looked at, as far as it names one.
function Around({ alert }: { alert: Alert }) {
  const run = useRun();
  const named = [alert.evidence.metric, ...Object.keys(alert.evidence), "loss"].find((name) => typeof name === "string" && run?.series.includes(name)) as string | undefined;
  const step = alert.step ?? 0;
  const reach = Math.max(50, Math.round((run?.step ?? 0) / 40));
  const found = useNear(run?.run ?? "", named ?? "", step - reach, step + reach);
  if (!named || alert.step === null) return null;
  return <Chart id={`around-${alert.offset}`} label={`${named} around step ${number(step)}`} curves={[curveOf(found, named)]} marks={[{ kind: "alert", x: step, text: alert.message }]} small height={130} />;
}

function useNear(run: string, metric: string, first: number, last: number) {
  const path = run && metric ? [`${run}`] : [];
  const { series } = useForeign(path, metric ? [metric] : [], 400, book.source(metric).value?.offset ?? 0, [first, last]);
  return series.get(run)?.[0] ?? null;
}

// Evidence that is NaN comes as null with its path beside it; the NaN is often the very point of the alert.
function said(value: unknown): string {
  if (value === null) return "not finite";
  if (typeof value === "number") return number(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function AlertItem({ alert }: { alert: Alert }) {
  const [open, setOpen] = useState(false);
  const cleared = alert.state === "cleared";
  return (
    <details class={`alert ${cleared ? "cleared" : alert.severity}`} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <span class="symbol" aria-hidden="true">
          {SYMBOLS[alert.severity] ?? "•"}
        </span>
        <span class="message">{alert.message || alert.rule}</span>
        <span class="meta">{[alert.severity, cleared ? "cleared" : alert.state, alert.step === null ? "" : `step ${number(alert.step)}`, clock(alert.time)].filter(Boolean).join(" · ")}</span>
      </summary>
      {open ? (
        <>
          {alert.advice ? <p class="advice">{alert.advice}</p> : null}
          <dl>
            <dt>rule</dt>
            <dd>{[alert.plugin, alert.rule].filter(Boolean).join(" / ") || "–"}</dd>
            {Object.entries(alert.evidence).map(([name, value]) => [<dt key={name}>{name}</dt>, <dd key={`${name}=`}>{said(value)}</dd>])}
          </dl>
          <Around alert={alert} />
        </>
      ) : null}
    </details>
  );
}

export function AlertsPanel() {
  const resource = useList<Alert>("alerts");
  const general = useValue(state, (value) => value?.alerts);
  const closed = (alert: Alert) => Number(alert.state === "cleared");
  const entries = [...(resource.data?.entries ?? []), ...(general ?? [])].sort((a, b) => closed(a) - closed(b) || b.offset - a.offset);
  const open = entries.filter((alert) => !closed(alert)).length;
  return (
    <Panel id="alerts" title="Alerts" span="alerts" count={entries.length ? `${open} open, ${entries.length - open} cleared` : ""} stale={staleOf(resource)}>
      <div id="alerts" class="scroll" tabIndex={0} role="region" aria-label="Alerts">
        <Waiting resource={resource} empty={!entries.length} none={<><span class="big" aria-hidden="true">✓</span>Nothing unusual so far.</>} />
        {entries.map((alert) => (
          <AlertItem alert={alert} key={alert.id || `${alert.rule}@${alert.offset}`} />
        ))}
      </div>
    </Panel>
  );
}

export function EvalsPanel() {
  const resource = useList<Evaluation>("evals");
  const entries = resource.data?.entries ?? [];
  const [chosen, setChosen] = useState("");
  const names = [...new Set(entries.flatMap((entry) => Object.keys(entry.metrics)))];
  const metric = names.includes(chosen) ? chosen : (names.find((name) => !name.includes("loss")) ?? names[0] ?? "");
  const curves = useMemo(() => [...new Set(entries.map((entry) => entry.dataset))].map((set) => {
    const points = new Map(entries.filter((entry) => entry.dataset === set && metric in entry.metrics).map((entry) => [entry.step, entry.metrics[metric]]));
    const steps = [...points.keys()].sort((a, b) => a - b);
    return { name: set || "live model", x: steps, y: steps.map((step) => points.get(step) ?? null) };
  }), [resource.data, metric]);
  return (
    <Panel
      id="evals"
      title="Evaluations"
      span="narrow"
      count={entries.length ? `${entries.length} result${entries.length === 1 ? "" : "s"}` : ""}
      stale={staleOf(resource)}
      tools={
        names.length > 1 ? (
          <label class="control">
            <span class="hidden">Metric of the curve</span>
            <select value={metric} onChange={(event) => setChosen(event.currentTarget.value)}>
              {names.map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        ) : null
      }
    >
      <div id="evals">
        <Waiting resource={resource} empty={!entries.length} none="No evaluation yet." />
        {entries.length > 1 ? <Chart id="chart-evals" label={metric} curves={curves} small height={130} /> : null}
        {entries.length ? (
          <Table
            label="Evaluations"
            columns={[["Step", "num"], ["Set"], ["Metrics", "grow"]]}
            rows={entries.map((entry) => ({
              key: entry.offset,
              cells: [
                number(entry.step),
                <span title={entry.duration === null ? "" : `took ${duration(entry.duration)}`}>{[entry.dataset || "live model", entry.examples ? ` · ${number(entry.examples)}` : ""].join("")}</span>,
                <Metrics values={entry.metrics} />,
              ],
            }))}
          />
        ) : null}
      </div>
    </Panel>
  );
}
