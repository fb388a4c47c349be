// The series of the shown run: fetched down-sampled to the screen's width, and continued by live events.

import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { ApiError, get, type Parameters } from "./net";
import { Observable, useValue } from "./observable";
import type { BusEvent, Series } from "./types";

// So many live points are drawn before a series is fetched again, down-sampled.
const LIVE_POINTS = 600;
const RECENT = 2000;
const PAUSE = 1000;
// Live points are drawn together, so that a busy run costs no more than a quiet one, in ms.
const DRAW_PAUSE = 400;
const SLOW_PAUSE = 5000;

// Series that the server derives from events; they are fetched again instead of continued here.
const DERIVED = new Set(["steps_per_second", "accuracy_50", "elapsed_seconds"]);

export interface Held {
  series: Series;
  offset: number;
  live: number;
}

export class SeriesBook {
  readonly problem = new Observable("");
  // Whether any series has been answered: what is not seen at first waits for that.
  readonly begun = new Observable(false);
  private run = "";
  private range: [number, number] | null = null;
  private readonly watched = new Map<string, number>();
  private readonly held = new Map<string, Observable<Held | null>>();
  private readonly stale = new Set<string>();
  private recent: BusEvent[] = [];
  private timer: ReturnType<typeof setTimeout> | null = null;
  private fetching = false;
  private last = 0;
  private points = 1000;
  private readonly grown = new Set<Observable<Held | null>>();

  // Another run, or another part of it.
  look(run: string, range: [number, number] | null): void {
    if (run === this.run && range?.[0] === this.range?.[0] && range?.[1] === this.range?.[1]) return;
    if (run !== this.run) {
      for (const series of this.held.values()) series.value = null;
      this.recent = [];
    } else if (range) {
      // The points that are here show at once what is coming in full detail.
      for (const source of this.held.values()) if (source.value) source.value = { ...source.value, series: part(source.value.series, range) };
    }
    [this.run, this.range] = [run, range];
    this.last = 0;
    this.renew();
  }

  // Everything again: after a reconnection nothing is known of what was missed.
  renew(): void {
    for (const metric of this.watched.keys()) this.stale.add(metric);
    this.schedule(PAUSE);
  }

  watch(metric: string): () => void {
    this.watched.set(metric, (this.watched.get(metric) ?? 0) + 1);
    if (!this.source(metric).value) {
      this.stale.add(metric);
      this.last = 0;
      this.schedule(0);
    }
    return () => {
      const left = (this.watched.get(metric) ?? 1) - 1;
      if (left > 0) this.watched.set(metric, left);
      else this.watched.delete(metric);
    };
  }

  source(metric: string): Observable<Held | null> {
    let found = this.held.get(metric);
    if (!found) this.held.set(metric, (found = new Observable<Held | null>(null)));
    return found;
  }

  fit(points: number): void {
    this.points = Math.min(2000, Math.max(this.points, 300, points));
  }

  take(event: BusEvent, step: number): void {
    if (event.run !== this.run) return;
    if (event.kind === "run_started") this.renew();
    if (event.kind !== "step" && event.kind !== "metric" && event.kind !== "sample") return;
    this.recent.push(event);
    if (this.recent.length > RECENT) this.recent.splice(0, RECENT / 2);
    for (const metric of this.watched.keys()) {
      if (DERIVED.has(metric)) {
        const source = metric === "accuracy_50" ? "sample" : "step";
        if (event.kind === source && !this.range) this.again(metric, SLOW_PAUSE);
      } else this.continue(metric, event, step);
    }
  }

  private continue(metric: string, event: BusEvent, step: number): void {
    const source = this.source(metric);
    const held = source.value;
    if (!held || event.offset <= held.offset || this.range) return;
    const point = pointOf(event, metric, step);
    if (!point) return;
    const { series } = held;
    const previous = series.steps.length ? series.steps[series.steps.length - 1] : -Infinity;
    if (point.value === null || point.step <= previous) {
      this.again(metric, PAUSE);
      return;
    }
    series.steps.push(point.step);
    series.values.push(point.value);
    [held.offset, held.live] = [event.offset, held.live + 1];
    if (!this.grown.size) setTimeout(() => this.draw(), DRAW_PAUSE);
    this.grown.add(source);
    if (held.live > LIVE_POINTS) this.again(metric, PAUSE);
  }

  private draw(): void {
    for (const source of this.grown) source.value = source.value && { ...source.value };
    this.grown.clear();
  }

  private again(metric: string, pause: number): void {
    this.stale.add(metric);
    this.schedule(pause);
  }

  private schedule(pause: number): void {
    if (this.timer !== null || this.fetching || !this.run || !this.stale.size) return;
    this.timer = setTimeout(() => this.fetch(), Math.max(0, this.last + pause - Date.now()));
  }

  private async fetch(): Promise<void> {
    this.timer = null;
    const metrics = [...this.stale].filter((metric) => this.watched.has(metric)).slice(0, 50);
    this.stale.clear();
    if (!metrics.length || document.hidden) {
      for (const metric of metrics) this.stale.add(metric);
      if (metrics.length) document.addEventListener("visibilitychange", () => this.schedule(0), { once: true });
      return;
    }
    this.fetching = true;
    const { run, range } = this;
    try {
      const parameters: Parameters = metrics.map((metric) => ["metric", metric]);
      parameters.push(["points", this.points]);
      if (range) parameters.push(["from", range[0]], ["to", range[1]]);
      const answer = await get<{ offset: number; series: Series[] }>(`/api/runs/${encodeURIComponent(run)}/series`, parameters);
      this.problem.value = "";
      if (run === this.run && range === this.range) for (const series of answer.series) this.place(series, answer.offset);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.problem.value = error.message;
      for (const metric of metrics) this.stale.add(metric);
    } finally {
      this.fetching = false;
      this.begun.value = true;
      this.last = Date.now();
      this.schedule(PAUSE);
    }
  }

  // Events that came while the answer was on its way are not in it.
  private place(series: Series, offset: number): void {
    const source = this.source(series.metric);
    source.value = { series, offset, live: 0 };
    if (DERIVED.has(series.metric) || this.range) return;
    for (const event of this.recent) if (event.offset > offset) this.continue(series.metric, event, 0);
  }
}

function part(series: Series, [first, last]: [number, number]): Series {
  const inside = (_: unknown, index: number) => series.steps[index] >= first && series.steps[index] <= last;
  return {
    ...series,
    steps: series.steps.filter(inside),
    values: series.values.filter(inside),
    gaps: series.gaps.filter((gap) => gap.last >= first && gap.first <= last),
  };
}

function pointOf(event: BusEvent, metric: string, step: number): { step: number; value: number | null } | null {
  if (event.kind === "metric") return event.name === metric ? { step: (event.step as number | null) ?? step, value: event.value as number | null } : null;
  if (event.kind !== "step" || event.rank) return null;
  const metrics = event.metrics as Record<string, number | null>;
  const value = metric === "examples" || metric === "tokens" ? (event[metric] as number | null) : metrics[metric];
  return value === undefined ? null : { step: event.step as number, value };
}

// A series of the shown run for as long as the component is there.
export function useSeries(book: SeriesBook, metric: string): Series | null {
  // Before the next paint: the first chart waits for this.
  useLayoutEffect(() => (metric ? book.watch(metric) : undefined), [metric]);
  const held = useValue(book.source(metric));
  return held?.series ?? null;
}

// Series of any runs, fetched once for each change of `version`.
export function useForeign(runs: string[], metrics: string[], points: number, version: unknown, part: [number, number] | null = null): { series: Map<string, Series[]>; problem: string } {
  const [found, setFound] = useState<{ series: Map<string, Series[]>; problem: string }>({ series: new Map(), problem: "" });
  useEffect(() => {
    let current = true;
    if (!runs.length || !metrics.length) return;
    const ask = (run: string) =>
      get<{ series: Series[] }>(`/api/runs/${encodeURIComponent(run)}/series`, [...metrics.map((metric): [string, string] => ["metric", metric]), ["points", points], ...(part ? ([["from", part[0]], ["to", part[1]]] as [string, number][]) : [])]);
    Promise.all(runs.map(async (run) => [run, (await ask(run)).series] as const)).then(
      (answers) => current && setFound({ series: new Map(answers), problem: "" }),
      (error) => current && setFound((before) => ({ ...before, problem: String(error.message) })),
    );
    return () => {
      current = false;
    };
  }, [runs.join("\n"), metrics.join("\n"), points, version, part?.join()]);
  return found;
}
