// What the model answers: searched, filtered, flagged, and one example over the checkpoints.

import { useState } from "preact/hooks";
import { Chart } from "../chart";
import { book, go, useList, useResource, useRun } from "../model";
import { number, percent } from "../format";
import { useSettled } from "../observable";
import { Panel, Waiting, staleOf } from "../panel";
import { useSeries } from "../series";
import type { Sample } from "../types";
import { curveOf } from "./charts";

const REASONS: Record<string, string> = { wrong: "wrong", confidently_wrong: "wrong though confident", regressed: "was right before", unsure: "unsure" };

export const confidence = (sample: Sample): number | null => sample.confidence ?? (sample.loss === null ? null : Math.exp(-sample.loss));

export function verdict(sample: Sample): [symbol: string, name: string, text: string] {
  if (sample.correct === null) return ["·", "", "not scored"];
  return sample.correct ? ["✓", "right", "correct"] : ["✗", "wrong", "wrong"];
}

// The last answers to the same example, and the way to all of them.
const LATEST = 3;

function Evolution({ example }: { example: string }) {
  const run = useRun();
  const resource = useResource<{ answers: Sample[] }>("/api/evolution", [["run", run?.run ?? ""], ["example", example]], run?.versions.samples ?? 0);
  const answers = resource.data?.answers ?? [];
  if (answers.length < 2) return null;
  const follow = () => {
    go({ example });
    requestAnimationFrame(() => requestAnimationFrame(() => document.getElementById("panel-evolution")?.scrollIntoView({ block: "nearest" })));
  };
  return (
    <div class="evolution">
      <p class="meta">
        The same example over time{" "}
        <button type="button" class="quiet small" onClick={follow}>
          All {answers.length} answers
        </button>
      </p>
      <ol>
        {answers.slice(-LATEST).map((answer) => {
          const [symbol, name, text] = verdict(answer);
          return (
            <li key={answer.offset} class={name}>
              <span class="meta">step {number(answer.step)}</span>
              <span class="symbol" role="img" aria-label={text}>
                {symbol}
              </span>
              <span>{answer.answer ?? "–"}</span>
            </li>
          );
        })}
      </ol>
    </div>
  );
}

function Item({ sample }: { sample: Sample }) {
  const [open, setOpen] = useState(false);
  const [symbol, name, text] = verdict(sample);
  const sure = confidence(sample);
  const parts: [string, string | null][] = [
    ["prompt", sample.prompt],
    ["expected", sample.expected],
    ["answer", sample.answer],
    ["set", sample.dataset || null],
    ["example", sample.example || null],
    ["loss", sample.loss === null ? null : `${number(sample.loss)}${sure === null ? "" : `, confidence ${percent(sure)}`}`],
    ["flagged", sample.reasons?.map((reason) => REASONS[reason] ?? reason).join(", ") ?? null],
  ];
  return (
    <details class={`sample ${name}`} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <span class="symbol" title={text} role="img" aria-label={text}>
          {symbol}
        </span>
        <span class="message">{sample.prompt}</span>
        <span class="answer">{sample.answer ?? "–"}</span>
        <span class="meta">step {number(sample.step)}</span>
      </summary>
      {open ? (
        <>
          <dl>{parts.filter(([, value]) => value !== null).map(([part, value]) => [<dt key={part}>{part}</dt>, <dd key={`${part}=`}>{value}</dd>])}</dl>
          {sample.example ? <Evolution example={sample.example} /> : null}
        </>
      ) : null}
    </details>
  );
}

export function SamplesPanel() {
  const run = useRun();
  const [search, setSearch] = useState("");
  const [filter, setFilter] = useState("all");
  const wanted = useSettled(search);
  const listed = useList<Sample>("samples", wanted ? [["search", wanted]] : []);
  const flagged = useResource<{ found: number; samples: Sample[] }>(
    filter === "flagged" && run ? "/api/flagged" : "",
    [["run", run?.run ?? ""]],
    run?.versions.samples ?? 0,
  );
  const matches = (sample: Sample) => !wanted || JSON.stringify(sample).toLowerCase().includes(wanted.toLowerCase());
  const entries =
    filter === "flagged"
      ? (flagged.data?.samples ?? []).filter(matches)
      : (listed.data?.entries ?? []).filter((sample) => filter === "all" || sample.correct === (filter === "right"));
  const resource = filter === "flagged" ? flagged : listed;
  return (
    <Panel
      id="samples"
      title="Samples"
      span="wide"
      count={resource.data ? `${entries.length}` : ""}
      stale={staleOf(listed)}
      tools={
        <>
          <label class="control">
            <span class="hidden">Which samples</span>
            <select id="samples-filter" value={filter} onChange={(event) => setFilter(event.currentTarget.value)}>
              <option value="all">all</option>
              <option value="wrong">wrong</option>
              <option value="right">correct</option>
              <option value="flagged">flagged</option>
            </select>
          </label>
          <label class="control">
            <span class="hidden">Search samples</span>
            <input id="samples-search" type="search" placeholder="Search" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
          </label>
        </>
      }
    >
      <div id="samples" class="scroll high" tabIndex={0} role="region" aria-label="Samples">
        <Waiting
          resource={resource}
          empty={!entries.length}
          none={wanted || filter !== "all" ? "No sample matches." : "No sample yet. They come from the trainer, or from the inference plugin after each checkpoint."}
        />
        {entries.map((sample) => (
          <Item sample={sample} key={sample.offset} />
        ))}
      </div>
    </Panel>
  );
}

export function AccuracyPanel() {
  const run = useRun();
  const series = useSeries(book, run?.series.includes("accuracy_50") ? "accuracy_50" : "");
  const figures = run?.accuracy;
  const trend = figures?.trend ?? null;
  const arrow = trend === null || Math.abs(trend) < 0.005 ? ["→", "steady"] : trend > 0 ? ["↗", "rising"] : ["↘", "falling"];
  const cells: [string, number | null][] = [
    ["last 20", figures?.last20 ?? null],
    ["last 50", figures?.last50 ?? null],
    ["overall", figures?.overall ?? null],
  ];
  return (
    <Panel id="accuracy" title="Accuracy" span="narrow" count={figures?.scored ? `${number(figures.scored)} scored` : ""}>
      <div class="figures" id="accuracy">
        {cells.map(([name, value]) => (
          <div class="figure" key={name}>
            <span class="label">{name}</span>
            <span class="value">
              {percent(value)}
              {name === "last 20" && trend !== null ? (
                <span class={`arrow ${arrow[1]}`} title={`${arrow[1]}: ${(trend * 100).toFixed(1)} points against the 20 before`}>
                  {" "}
                  <span aria-hidden="true">{arrow[0]}</span>
                  <span class="hidden">{arrow[1]}</span>
                </span>
              ) : null}
            </span>
          </div>
        ))}
      </div>
      <Chart id="chart-accuracy" label="Accuracy of the last 50" curves={[{ ...curveOf(series, "accuracy"), colour: "--ok" }]} small sync="run" />
    </Panel>
  );
}
