// How the answer to one example changed over the steps: what stayed, what came and what went, with verdict and confidence.

import { useMemo } from "preact/hooks";
import { Chart } from "../chart";
import { difference } from "../difference";
import { go, useResource, useRun, view } from "../model";
import { number, percent } from "../format";
import { useValue } from "../observable";
import { Panel, Waiting, staleOf } from "../panel";
import type { Sample } from "../types";
import { confidence, verdict } from "./samples";

interface Evolved {
  examples: Record<string, number>;
  answers: Sample[];
}

// Neighbouring answers that are the same are one entry.
interface Entry {
  first: Sample;
  last: Sample;
  count: number;
  before: string | null;
}

function entriesOf(answers: Sample[]): Entry[] {
  const found: Entry[] = [];
  for (const sample of answers) {
    const last = found[found.length - 1];
    if (last && last.first.answer === sample.answer && last.first.correct === sample.correct) {
      last.last = sample;
      last.count += 1;
    } else found.push({ first: sample, last: sample, count: 1, before: last ? (last.first.answer ?? "") : null });
  }
  return found;
}

function Changed({ entry }: { entry: Entry }) {
  const text = entry.first.answer ?? "–";
  const parts = useMemo(() => (entry.before === null ? null : difference(entry.before, text)), [entry.before, text]);
  if (!parts) return <span>{text}</span>;
  return (
    <span>
      {parts.map((part, index) => (part.kind === "new" ? <ins key={index}>{part.text}</ins> : part.kind === "gone" ? <del key={index}>{part.text}</del> : <span key={index}>{part.text}</span>))}
    </span>
  );
}

function Line({ entry }: { entry: Entry }) {
  const { first, last, count } = entry;
  const [symbol, name, text] = verdict(first);
  const sure = confidence(last);
  return (
    <li class={name}>
      <span class="meta">
        step {number(first.step)}
        {count > 1 ? ` to ${number(last.step)}, ${count} times` : ""}
      </span>
      <span class="symbol" role="img" aria-label={text} title={text}>
        {symbol}
      </span>
      <span class="answer">
        <Changed entry={entry} />
        {sure === null ? null : <span class="meta"> {percent(sure)} sure</span>}
      </span>
    </li>
  );
}

function Followed({ example }: { example: string }) {
  const run = useRun();
  const resource = useResource<Evolved>("/api/evolution", [["run", run?.run ?? ""], ["example", example]], run?.versions.samples ?? 0);
  const answers = resource.data?.answers ?? [];
  const examples = Object.entries(resource.data?.examples ?? {});
  const entries = useMemo(() => entriesOf(answers), [resource.data]);
  const curve = useMemo(() => {
    const points = new Map(answers.flatMap((answer) => (confidence(answer) === null ? [] : [[answer.step, confidence(answer) as number] as const])));
    const steps = [...points.keys()].sort((a, b) => a - b);
    return { name: "confidence", x: steps, y: steps.map((step) => points.get(step) as number), colour: "--accent" };
  }, [resource.data]);
  const newest = answers[answers.length - 1];
  const right = answers.filter((answer) => answer.correct).length;
  const scored = answers.filter((answer) => answer.correct !== null).length;
  const place = examples.findIndex(([name]) => name === example);
  const neighbour = (by: number) => examples[place + by]?.[0];
  return (
    <Panel
      id="evolution"
      title="One example over the steps"
      span="wide"
      count={answers.length ? `${answers.length} answers${scored ? `, ${right} of ${scored} right` : ""}` : ""}
      stale={staleOf(resource)}
      tools={
        <>
          <label class="control">
            <span class="hidden">Example</span>
            <select id="evolution-example" value={example} onChange={(event) => go({ example: event.currentTarget.value })}>
              {place < 0 ? <option value={example}>{example}</option> : null}
              {examples.map(([name, count]) => (
                <option key={name} value={name}>
                  {name} · {count}
                </option>
              ))}
            </select>
          </label>
          <span class="deeds">
            <button type="button" class="quiet small" aria-label="Previous example" disabled={!neighbour(-1)} onClick={() => go({ example: neighbour(-1) ?? example })}>
              ‹
            </button>
            <button type="button" class="quiet small" aria-label="Next example" disabled={!neighbour(1)} onClick={() => go({ example: neighbour(1) ?? example })}>
              ›
            </button>
            <button id="evolution-close" type="button" class="quiet small" aria-label="Close" onClick={() => go({ example: "" })}>
              ✕
            </button>
          </span>
        </>
      }
    >
      <div id="evolution">
        <Waiting resource={resource} empty={!answers.length} none="No answer to this example is known. The last 50 answers of 500 examples are kept." />
        {newest ? (
          <dl>
            <dt>prompt</dt>
            <dd>{newest.prompt}</dd>
            {newest.expected === null ? null : [<dt key="expected">expected</dt>, <dd key="expected=">{newest.expected}</dd>]}
          </dl>
        ) : null}
        {curve.x.length > 1 ? <Chart id="chart-evolution" label="Confidence" curves={[curve]} small height={110} /> : null}
        {entries.length ? (
          <ol class="scroll high" tabIndex={0} aria-label="Answers, the earliest first">
            {entries.map((entry) => (
              <Line entry={entry} key={entry.first.offset} />
            ))}
          </ol>
        ) : null}
      </div>
    </Panel>
  );
}

export function EvolutionPanel() {
  const { example } = useValue(view);
  return example ? <Followed example={example} /> : null;
}
