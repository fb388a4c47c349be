// How long the steps took: a histogram over the whole run, of which no step is left out.

import { now, useResource, useRun } from "../model";
import { number, percent } from "../format";
import { useValue } from "../observable";
import { Panel, Waiting, staleOf } from "../panel";
import type { StepTimes } from "../types";

const PAUSE = 5000;
const NOTHING: StepTimes = { counted: 0, edges: [], counts: [], p50: null, p95: null, p99: null, longest: null };
// A run of even steps is one bar among empty ones, not a wall.
const FEWEST = 15;
const [WIDTH, HEIGHT] = [300, 96];

function time(seconds: number | null): string {
  if (seconds === null) return "–";
  if (seconds < 1e-3) return `${number(seconds * 1e6, 2)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3, 2)} ms` : `${number(seconds, 3)} s`;
}

function padded(found: StepTimes): StepTimes {
  const beside = Math.max(1, Math.ceil((FEWEST - found.counts.length) / 2));
  const ratio = found.edges[1] / found.edges[0];
  const [first, last] = [found.edges[0], found.edges[found.edges.length - 1]];
  const none = Array<number>(beside).fill(0);
  const around = none.map((_, index) => ratio ** (index + 1));
  return { ...found, counts: [...none, ...found.counts, ...none], edges: [...around.map((by) => first / by).reverse(), ...found.edges, ...around.map((by) => last * by)] };
}

// Bins have the same ratio, so the axis is logarithmic.
function Bars({ found: told }: { found: StepTimes }) {
  const found = padded(told);
  const highest = Math.max(...found.counts);
  const width = WIDTH / found.counts.length;
  const middle = found.edges[Math.floor(found.edges.length / 2)];
  return (
    <>
      <svg
        class="histogram"
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Step times of ${number(found.counted)} steps: half within ${time(found.p50)}, 95 % within ${time(found.p95)}, 99 % within ${time(found.p99)}, longest ${time(found.longest)}`}
      >
        {found.counts.map((count, index) => {
          // A single step among many stays visible: outliers are what one looks for.
          const height = count ? Math.max(1.5, (count / highest) * HEIGHT) : 0;
          return (
            <rect key={found.edges[index]} x={index * width} width={width * 0.92} y={HEIGHT - height} height={height}>
              <title>{`${time(found.edges[index])} to ${time(found.edges[index + 1])}: ${number(count)} steps, ${percent(count / found.counted)}`}</title>
            </rect>
          );
        })}
      </svg>
      <div class="ends meta" aria-hidden="true">
        <span>{time(found.edges[0])}</span>
        <span>{time(middle)}</span>
        <span>{time(found.edges[found.edges.length - 1])}</span>
      </div>
    </>
  );
}

export function StepTimesPanel() {
  const run = useRun();
  const beat = useValue(now, (at) => Math.floor(at / PAUSE));
  const version = run?.step === null || run?.step === undefined ? 0 : run.state === "running" ? beat : `${run.state} ${run.step}`;
  const resource = useResource<StepTimes>(run ? `/api/runs/${encodeURIComponent(run.run)}/step_times` : "", [], version, NOTHING);
  const last = resource.data;
  const figures: [string, number | null][] = [["median", last?.p50 ?? null], ["95 %", last?.p95 ?? null], ["99 %", last?.p99 ?? null], ["longest", last?.longest ?? null]];
  return (
    <Panel id="steptimes" title="Step times" span="narrow" count={last?.counted ? `${number(last.counted)} steps` : ""} stale={staleOf(resource)}>
      <div id="steptimes">
        {last?.counted ? (
          <>
            <div class="figures small">
              {figures.map(([name, seconds]) => (
                <div class="figure" key={name}>
                  <span class="label">{name}</span>
                  <span class="value">{time(seconds)}</span>
                </div>
              ))}
            </div>
            <Bars found={last} />
          </>
        ) : (
          <Waiting resource={resource} empty={!last?.counted} none="Two steps are needed." />
        )}
      </div>
    </Panel>
  );
}
