// The loss with everything that happened on its way, and the small curves beside it.

import { useMemo } from "preact/hooks";
import { Chart, saveDrawing, savePicture, type Curve, type Mark } from "../chart";
import { book, logarithmic, range, smoothing, useList, useRun, view, zoom } from "../model";
import { number } from "../format";
import { useValue } from "../observable";
import { Panel } from "../panel";
import { address } from "../net";
import { useSeries } from "../series";
import type { Alert, Checkpoint, Evaluation, Job, RunDetail, Series } from "../types";

// The first of these names that the run publishes is drawn.
export const NAMES = {
  loss: ["loss", "train_loss"],
  lr: ["learning_rate", "lr"],
  norm: ["grad_norm", "gradient_norm"],
  speed: ["tokens_per_second", "samples_per_second", "train_samples_per_second", "steps_per_second"],
};
const EVAL_LOSS = ["loss", "eval_loss", "val_loss", "validation_loss"];

export const chosen = (run: RunDetail | null, names: string[]): string => names.find((name) => run?.series.includes(name)) ?? "";

export const curveOf = (series: Series | null, name: string): Curve => ({ name, x: series?.steps ?? [], y: series?.values ?? [], gaps: series?.gaps });

// Which evaluations say something about the loss, and how much.
function lossOf(result: Evaluation): number | null {
  const name = EVAL_LOSS.find((candidate) => typeof result.metrics[candidate] === "number");
  return name ? (result.metrics[name] as number) : null;
}

export function Tools({ id, name, metrics }: { id: string; name: string; metrics: string[] }) {
  const run = useRun();
  const file = (format: string) =>
    address(`/api/runs/${encodeURIComponent(run?.run ?? "")}/export`, [["format", format], ...metrics.map((metric): [string, string] => ["metric", metric])]);
  return (
    <details class="menu">
      <summary aria-label={`Save or enlarge ${name}`} title="Save or enlarge">
        ⋯
      </summary>
      <div class="items">
        <button type="button" onClick={() => document.getElementById(`panel-${id}`)?.requestFullscreen()}>
          Full screen
        </button>
        <button type="button" onClick={() => savePicture(`chart-${id}`, `${run?.run ?? "run"}-${name}`)}>
          Save PNG
        </button>
        <button type="button" onClick={() => saveDrawing(`chart-${id}`, `${run?.run ?? "run"}-${name}`)}>
          Save SVG
        </button>
        <a href={file("csv")} download>
          Save CSV
        </a>
        <a href={file("json")} download>
          Save JSON
        </a>
      </div>
    </details>
  );
}

export function LossPanel() {
  const run = useRun();
  const metric = chosen(run, NAMES.loss);
  const series = useSeries(book, metric);
  const weight = useValue(smoothing);
  const log = useValue(logarithmic);
  const problem = useValue(book.problem);
  useValue(view);
  const alerts = useList<Alert>("alerts").data?.entries;
  const checkpoints = useList<Checkpoint>("checkpoints").data?.entries;
  const evals = useList<Evaluation>("evals").data?.entries;
  const jobs = useList<Job>("jobs").data?.entries;
  const best = run?.best;
  const [marks, validation] = useMemo(() => {
    const found: Mark[] = [];
    for (const alert of alerts ?? []) {
      if (alert.step !== null) found.push({ kind: "alert", x: alert.step, text: alert.message || alert.rule, tone: { critical: "--critical", warning: "--warning", info: "--info" }[alert.severity] });
    }
    for (const checkpoint of checkpoints ?? []) {
      found.push({ kind: "checkpoint", x: checkpoint.step, text: `checkpoint ${checkpoint.state}`, faint: checkpoint.state === "deleted" });
    }
    for (const job of jobs ?? []) {
      if (job.step) found.push({ kind: "border", x: job.step, text: job.file });
    }
    const results = (evals ?? []).filter((result) => lossOf(result) !== null).sort((a, b) => a.step - b.step);
    for (const result of results) found.push({ kind: "eval", x: result.step, y: lossOf(result) as number, text: `${result.dataset || "validation"} loss ${number(lossOf(result))}` });
    if (best) found.push({ kind: "best", x: best.step, y: best.loss, text: `lowest loss ${number(best.loss)}` });
    // One line for each data set would cross; the newest set is the one that is being watched.
    const set = results.length ? results[results.length - 1].dataset : "";
    const line = new Map(results.filter((result) => result.dataset === set).map((result) => [result.step, lossOf(result) as number]));
    return [found, line];
  }, [alerts, checkpoints, evals, jobs, best?.step, best?.loss]);
  const curves: Curve[] = [{ ...curveOf(series, "loss"), smoothing: weight > 0 ? weight : undefined, colour: "--accent" }];
  const [first, last] = range() ?? [-Infinity, Infinity];
  const line = useMemo(() => {
    const inside = [...validation].filter(([step]) => step >= first && step <= last);
    return { x: inside.map(([step]) => step), y: inside.map(([, value]) => value) };
  }, [validation, first, last]);
  if (line.x.length > 1) curves.push({ name: "validation", ...line, colour: "--second", dash: [6, 4] });
  const kinds: [string, string, string, boolean][] = [
    ["alert", "▼", "alerts", marks.some((mark) => mark.kind === "alert")],
    ["checkpoint", "◆", "checkpoints", marks.some((mark) => mark.kind === "checkpoint")],
    ["eval", "●", "validation", validation.size > 0],
    ["best", "★", "best", Boolean(best)],
  ];
  return (
    <Panel
      id="loss"
      title="Loss"
      span="loss"
      stale={problem ? "not refreshed" : ""}
      tools={
        <>
          <label class="control">
            Smoothing
            <input id="smoothing" type="range" min="0" max="0.99" step="0.01" value={weight} aria-valuetext={`${Math.round(weight * 100)} %`} onInput={(event) => (smoothing.value = Number(event.currentTarget.value))} />
          </label>
          <label class="control">
            <input id="log" type="checkbox" checked={log} onChange={(event) => (logarithmic.value = event.currentTarget.checked)} /> Log
          </label>
          {range() ? (
            <button id="unzoom" type="button" class="quiet small" onClick={() => zoom(null)}>
              Whole run
            </button>
          ) : null}
          <Tools id="loss" name="loss" metrics={metric ? [metric] : []} />
        </>
      }
    >
      <ul class="legend" id="loss-legend">
        {kinds.filter(([, , , there]) => there).map(([kind, symbol, text]) => (
          <li key={kind} class={kind}>
            <span aria-hidden="true">{symbol}</span> {text}
          </li>
        ))}
      </ul>
      <Chart id="chart-loss" label="Loss" curves={curves} marks={marks} logarithmic={log} onZoom={zoom} onWidth={(pixels) => book.fit(pixels)} sync="run" />
    </Panel>
  );
}

const TITLES: Record<string, string> = {
  tokens_per_second: "Tokens per second",
  steps_per_second: "Steps per second",
  samples_per_second: "Samples per second",
  train_samples_per_second: "Samples per second",
};

function Small({ id, title, names, colour }: { id: string; title: string; names: string[]; colour: string }) {
  const run = useRun();
  const metric = chosen(run, names);
  const series = useSeries(book, metric);
  const problem = useValue(book.problem);
  const newest = series?.values[series.values.length - 1];
  return (
    <Panel id={id} title={TITLES[metric] ?? title} span="third" stale={problem ? "not refreshed" : ""} tools={<><span class="now">{newest === undefined ? "" : number(newest, 3)}</span><Tools id={id} name={title} metrics={metric ? [metric] : []} /></>}>
      <Chart id={`chart-${id}`} label={TITLES[metric] ?? title} curves={[{ ...curveOf(series, TITLES[metric] ?? title.toLowerCase()), colour }]} small sync="run" onZoom={zoom} />
    </Panel>
  );
}

export const RatePanel = () => <Small id="lr" title="Learning rate" names={NAMES.lr} colour="--second" />;
export const NormPanel = () => <Small id="norm" title="Gradient norm" names={NAMES.norm} colour="--third" />;
export const SpeedPanel = () => <Small id="speed" title="Throughput" names={NAMES.speed} colour="--fourth" />;
