// Where the run stands: figures, progress, time left, and for an operator what it can be asked for.

import { useState } from "preact/hooks";
import { CommandDialog, Orders, command } from "../commands";
import { now, state, useRun } from "../model";
import { clock, duration, number } from "../format";
import { useValue } from "../observable";
import { Pill, TONES } from "../panel";
import { chosen, NAMES } from "./charts";
import { ofQueue } from "./queue_orders";
import type { RunDetail } from "../types";

interface Action {
  verb: string;
  text: string;
  // What a person should know before it happens; empty where nothing is lost by doing it.
  confirm: string;
}

const ACTIONS: Action[] = [
  { verb: "pause", text: "Pause", confirm: "The run waits before its next step until it is resumed. The accelerator stays taken." },
  { verb: "resume", text: "Resume", confirm: "" },
  { verb: "save", text: "Save", confirm: "" },
  { verb: "evaluate", text: "Evaluate", confirm: "" },
  { verb: "skip", text: "Skip file …", confirm: "Work on the present data file ends with a checkpoint; the file is laid aside until Retry in the queue. A run without an inbox refuses." },
  { verb: "set", text: "Learning rate …", confirm: "The schedule goes on in proportion to the new value." },
  { verb: "stop", text: "Stop …", confirm: "The run saves a checkpoint and ends. It can be started again from there, but not from here." },
];

function Figures({ run }: { run: RunDetail }) {
  const loss = chosen(run, NAMES.loss);
  const figures: [string, string, string?][] = [["step", `${number(run.step)}${run.total_steps ? ` / ${number(run.total_steps)}` : ""}`]];
  if (loss) figures.push(["loss", run.broken_metrics.includes(loss) ? "not finite" : number(run.metrics[loss]), run.broken_metrics.includes(loss) ? "bad" : ""]);
  if (run.best) figures.push(["lowest loss", `${number(run.best.loss)} at ${number(run.best.step)}`]);
  if (run.steps_per_second !== null) figures.push(["pace", run.steps_per_second >= 0.1 ? `${number(run.steps_per_second, 3)} steps/s` : `${number(1 / run.steps_per_second, 3)} s/step`]);
  if (run.epoch !== null) figures.push(["epoch", number(run.epoch, 3)]);
  if (run.tokens !== null) figures.push(["tokens", number(run.tokens)]);
  else if (run.examples !== null) figures.push(["examples", number(run.examples)]);
  if (run.host) figures.push(["host", run.host]);
  if (run.missing) figures.push(["events lost", number(run.missing), "bad"]);
  return (
    <div class="figures" id="figures">
      <div class="figure">
        <span class="label">state</span>
        <span class="value">
          <Pill text={run.state} tone={TONES[run.state]} />
        </span>
      </div>
      {figures.map(([label, value, tone]) => (
        <div class="figure" key={label}>
          <span class="label">{label}</span>
          <span class={`value ${tone ?? ""}`}>{value}</span>
        </div>
      ))}
    </div>
  );
}

function left(run: RunDetail): string {
  if (run.eta === null) return "";
  const spread = run.eta_low !== null && run.eta_high !== null && run.eta_high - run.eta_low > Math.max(60, run.eta * 0.05);
  const between = spread ? ` (${duration(run.eta_low)} to ${duration(run.eta_high)})` : "";
  return `about ${duration(run.eta)} left${between}, until ${clock((Date.now() + run.eta * 1000) * 1e6)}`;
}

function Confirm({ action, run, close }: { action: Action; run: string; close: () => void }) {
  const [rate, setRate] = useState("");
  const value = Number(rate);
  const set = action.verb === "set";
  const send = async (reason: string) => {
    if (set && !(value > 0 && Number.isFinite(value))) return "A learning rate is a number above 0, such as 1e-5.";
    return command(run, { verb: action.verb, arguments: set ? { learning_rate: value } : {}, reason });
  };
  return (
    <CommandDialog
      title={set ? "Set the learning rate" : `${action.text.replace(" …", "")} this run?`}
      subject={run}
      text={action.confirm}
      button={action.text.replace(" …", "")}
      danger={action.verb === "stop"}
      send={send}
      close={close}
    >
      {set ? (
        <label>
          Learning rate
          <input name="rate" inputMode="decimal" autoComplete="off" placeholder="1e-5" value={rate} onInput={(event) => setRate(event.currentTarget.value)} />
        </label>
      ) : null}
    </CommandDialog>
  );
}

function Steering({ run }: { run: RunDetail }) {
  const [asked, setAsked] = useState<Action | null>(null);
  const [problem, setProblem] = useState("");
  const choose = async (action: Action) => {
    setProblem("");
    if (action.confirm) setAsked(action);
    else setProblem(await command(run.run, { verb: action.verb }));
  };
  return (
    <div class="steering" role="group" aria-label="Steer this run">
      {ACTIONS.filter((action) => action.verb !== "skip" || run.versions.jobs).map((action) => (
        <button type="button" class={`quiet ${action.verb === "stop" ? "danger" : ""}`} data-verb={action.verb} key={action.verb} onClick={() => choose(action)}>
          {action.text}
        </button>
      ))}
      {problem ? (
        <span class="bad" role="alert">
          {problem}
        </span>
      ) : null}
      {asked ? <Confirm action={asked} run={run.run} close={() => setAsked(null)} /> : null}
    </div>
  );
}

export function StatusPanel() {
  const run = useRun();
  const role = useValue(state, (value) => value?.role);
  useValue(now);
  if (!run) return null;
  const share = run.total_steps && run.step !== null ? Math.min(1, run.step / run.total_steps) : null;
  const ended = run.state !== "running";
  const phase = run.phase ? `${run.phase.name.replaceAll("_", " ")}${run.phase.progress === null ? "" : ` ${Math.round(run.phase.progress * 100)} %`}${run.phase.detail ? `, ${run.phase.detail}` : ""}` : run.reason;
  const running = run.started ? `${ended ? "ran" : "running"} for ${duration(((ended ? run.updated : now.value * 1e6) - run.started) / 1e9)}` : "";
  return (
    <section id="panel-status" class="card full status" aria-label="Progress">
      <Figures run={run} />
      <div id="progress" class={`progress ${ended ? "ended" : ""}`} role="progressbar" aria-label="Steps done" aria-valuemin={0} aria-valuemax={100} aria-valuenow={share === null ? undefined : Math.round(share * 100)}>
        <div class="fill" style={{ width: `${(share ?? 0) * 100}%` }} />
      </div>
      <div class="under">
        <span id="phase">{phase}</span>
        <span id="eta">{[running, left(run)].filter(Boolean).join(" · ")}</span>
      </div>
      {role === "operator" && !["completed", "stopped", "failed"].includes(run.state) ? <Steering run={run} /> : null}
      <Orders id="orders" label="Commands" mine={(order) => !ofQueue(order)} />
    </section>
  );
}
