// Any metric by name: grouped, searched, pinned; two of them on one chart.

import { useMemo, useState } from "preact/hooks";
import { Chart, slope } from "../chart";
import { book, pinned, smoothing, useRun, zoom } from "../model";
import { number } from "../format";
import { useValue } from "../observable";
import { Nothing, Panel } from "../panel";
import { useSeries } from "../series";
import { Tools, curveOf } from "./charts";

// "eval/loss" and "eval_loss" belong to the group eval.
export function groupOf(metric: string, all: string[]): string {
  const slash = metric.indexOf("/");
  if (slash > 0) return metric.slice(0, slash);
  const word = metric.split(/[_.]/)[0];
  return all.filter((other) => other.split(/[_.]/)[0] === word).length > 1 ? word : "other";
}

// A pin is one metric, two that share a chart ("loss + grad_norm"), or the slope of one ("Δ loss").
const SEPARATOR = " + ";
const SLOPE = "Δ ";

const metricsOf = (entry: string): string[] => (entry.startsWith(SLOPE) ? [entry.slice(SLOPE.length)] : entry.split(SEPARATOR));

// Pin or unpin a chart, or put another in its place.
function pin(entry: string, instead?: string): void {
  const others = pinned.value.filter((other) => other !== instead);
  if (instead) pinned.value = others.map((other) => (other === entry ? instead : other));
  else pinned.value = others.includes(entry) ? others.filter((other) => other !== entry) : [...others, entry].slice(-12);
}

function Pinned({ entry, index }: { entry: string; index: number }) {
  const [first, second = ""] = metricsOf(entry);
  const sloped = entry.startsWith(SLOPE);
  const weight = useValue(smoothing);
  const a = useSeries(book, first);
  const b = useSeries(book, second);
  const id = `pin-${index}`;
  const plain = { ...curveOf(a, first), colour: "--accent" };
  const risen = useMemo(() => (sloped ? slope({ ...plain, name: `slope of ${first}` }, weight) : plain), [sloped, weight, a, a?.steps.length]);
  const curves = [sloped ? risen : plain, ...(second ? [{ ...curveOf(b, second), colour: "--second", axis: "right" as const }] : [])];
  return (
    <div class="pinned" id={`panel-${id}`}>
      <div class="head">
        <h3>
          <span>
            <span class="accent">{sloped ? `slope of ${first}, each step` : first}</span>
            {second ? <span class="second"> + {second} (right)</span> : null}
          </span>
        </h3>
        <div class="spacer" />
        {second ? null : (
          <button type="button" class="quiet small" aria-pressed={sloped} title="How fast it rises or falls, smoothed, for each step" onClick={() => pin(entry, sloped ? first : SLOPE + first)}>
            Slope
          </button>
        )}
        <Tools id={id} name={entry} metrics={second ? [first, second] : [first]} />
        <button type="button" class="quiet small" aria-label={`Unpin ${entry}`} onClick={() => pin(entry)}>
          ✕
        </button>
      </div>
      <Chart id={`chart-${id}`} label={sloped ? `slope of ${first}` : entry} curves={curves} small sync="run" onZoom={zoom} />
    </div>
  );
}

export function MetricsPanel() {
  const run = useRun();
  const pins = useValue(pinned);
  const [search, setSearch] = useState("");
  const [partner, setPartner] = useState("");
  const all = run?.series ?? [];
  const shown = all.filter((metric) => metric.toLowerCase().includes(search.toLowerCase()));
  const groups = new Map<string, string[]>();
  for (const metric of shown) {
    const group = groupOf(metric, all);
    groups.set(group, [...(groups.get(group) ?? []), metric]);
  }
  const here = pins.filter((entry) => metricsOf(entry).some((metric) => all.includes(metric)));
  return (
    <Panel
      id="metrics"
      title="Metrics"
      span="full"
      count={all.length ? `${all.length} series` : ""}
      tools={
        <label class="control">
          <span class="hidden">Search metrics</span>
          <input id="metrics-search" type="search" placeholder="Search metrics" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
        </label>
      }
    >
      {all.length === 0 ? <Nothing>No metric yet.</Nothing> : null}
      <div class="chips" id="metrics">
        {[...groups].sort(([a], [b]) => (a === "other" ? 1 : b === "other" ? -1 : a.localeCompare(b))).map(([group, metrics]) => (
          <div class="group" key={group} role="group" aria-label={group}>
            <span class="meta">{group}</span>
            {metrics.map((metric) => {
              const value = run?.metrics[metric];
              const bad = run?.broken_metrics.includes(metric);
              return (
                <span class={`chip ${pins.includes(metric) ? "on" : ""}`} key={metric}>
                  <button type="button" aria-pressed={pins.includes(metric)} title={pins.includes(metric) ? "Unpin" : "Pin as a chart"} onClick={() => pin(metric)}>
                    {metric} <b class={bad ? "bad" : ""}>{bad ? "not finite" : number(value, 4)}</b>
                  </button>
                  <button
                    type="button"
                    class="join"
                    aria-pressed={partner === metric}
                    aria-label={partner && partner !== metric ? `${partner} and ${metric} on one chart` : `Combine ${metric} with another metric`}
                    title={partner && partner !== metric ? `Together with ${partner}` : "On one chart with another: press here, then there"}
                    onClick={() => {
                      if (partner && partner !== metric) pin(partner + SEPARATOR + metric);
                      setPartner(partner ? "" : metric);
                    }}
                  >
                    +
                  </button>
                </span>
              );
            })}
          </div>
        ))}
      </div>
      {here.length ? (
        <div class="pins">
          {here.map((entry, index) => (
            <Pinned entry={entry} index={index} key={entry} />
          ))}
        </div>
      ) : null}
    </Panel>
  );
}
