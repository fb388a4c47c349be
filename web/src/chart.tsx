// A line chart on uPlot: one or more curves over steps, marks, gaps that stay gaps, a crosshair for mouse, finger and keyboard.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { number, short } from "./format";
import { asSvg } from "./svg";
import { look } from "./theme";
import { useValue } from "./observable";
import type { Gap } from "./types";

export interface Curve {
  name: string;
  x: readonly number[];
  y: readonly (number | null)[];
  gaps?: readonly Gap[];
  colour?: string;
  // Drawn faint, with its smoothed form above it.
  smoothing?: number;
  dash?: number[];
  axis?: "left" | "right";
}

export interface Mark {
  kind: "alert" | "checkpoint" | "eval" | "best" | "border";
  x: number;
  y?: number;
  text: string;
  tone?: string;
  faint?: boolean;
}

interface Options {
  id: string;
  label: string;
  curves: Curve[];
  marks?: Mark[];
  logarithmic?: boolean;
  height?: number;
  small?: boolean;
  xName?: string;
  formatX?: (value: number) => string;
  onZoom?: (range: [number, number] | null) => void;
  onWidth?: (pixels: number) => void;
  sync?: string;
}

export const COLOURS = ["--accent", "--second", "--fourth", "--third", "--ok", "--warning", "--info", "--critical"];

// An exponential mean without its start-up bias.
export function smooth(values: readonly (number | null)[], weight: number): (number | null)[] {
  let [mean, mass] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + value * (1 - weight);
    mass = mass * weight + (1 - weight);
    return mean / mass;
  });
}

// A line must break where values were not finite: a bridge over a NaN would be a lie. Null breaks it.
function broken(curve: Curve): [number[], (number | null)[]] {
  if (!curve.gaps?.length) return [curve.x as number[], curve.y as (number | null)[]];
  const x: number[] = [];
  const y: (number | null)[] = [];
  let gap = 0;
  for (let index = 0; index < curve.x.length; index += 1) {
    while (gap < curve.gaps.length && curve.gaps[gap].first <= curve.x[index]) {
      if (curve.gaps[gap].first < curve.x[index]) [x[x.length], y[y.length]] = [curve.gaps[gap].first, null];
      gap += 1;
    }
    x.push(curve.x[index]);
    y.push(curve.y[index]);
  }
  for (; gap < curve.gaps.length; gap += 1) [x[x.length], y[y.length]] = [curve.gaps[gap].first, null];
  return [x, y];
}

function table(curves: Curve[], logarithmic: boolean): uPlot.AlignedData {
  const positive = (values: (number | null)[]) => (logarithmic ? values.map((value) => (value !== null && value > 0 ? value : null)) : values);
  const parts = curves.map((curve): uPlot.AlignedData => {
    const [x, y] = broken(curve);
    return (curve.smoothing ? [x, positive(y), positive(smooth(y, curve.smoothing))] : [x, positive(y)]) as uPlot.AlignedData;
  });
  if (parts.length === 1) return parts[0];
  // Where one curve has no point at another's step it is passed over (undefined), not broken (null).
  return uPlot.join(parts, parts.map((part) => part.map(() => 2))) as uPlot.AlignedData;
}

// Everything that a chart is drawn from. Curves grow in place, so their length counts beside their identity.
const parts = ({ curves, marks }: Options, logarithmic: boolean): unknown[] => [
  logarithmic,
  marks,
  ...curves.flatMap((curve) => [curve.x, curve.y, curve.x.length, curve.gaps, curve.gaps?.length, curve.smoothing]),
];

// Draw again where something has changed: most renderings of a panel change nothing in its chart.
function renew(plot: uPlot, options: Options, logarithmic: boolean, drawn: { current: unknown[] }): void {
  const wanted = parts(options, logarithmic);
  if (wanted.length === drawn.current.length && wanted.every((part, index) => Object.is(part, drawn.current[index]))) return;
  drawn.current = wanted;
  plot.setData(table(options.curves, logarithmic));
}

export function Chart(options: Options) {
  const { id, label, curves, small = false, height = small ? 170 : 340 } = options;
  const box = useRef<HTMLDivElement>(null);
  const tip = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const drawn = useRef<unknown[]>([]);
  const visible = useRef(true);
  const latest = useRef(options);
  latest.current = options;
  const theme = useValue(look);
  const logarithmic = Boolean(options.logarithmic) && curves.some((curve) => curve.y.some((value) => value !== null && value > 0));
  const shape = JSON.stringify([theme, logarithmic, small, height, curves.map((curve) => [curve.name, curve.colour, Boolean(curve.smoothing), curve.axis])]);
  const filled = curves.some((curve) => curve.x.length > 0 || curve.gaps?.length);
  const [focused, setFocused] = useState(false);

  useLayoutEffect(() => {
    if (!box.current || !filled) return;
    const host = box.current;
    const made = new uPlot(configured(host, latest, tip, logarithmic), table(latest.current.curves, logarithmic), host);
    plot.current = made;
    charts.set(id, { plot: made, host, latest });
    drawn.current = parts(latest.current, logarithmic);
    const fit = () => {
      const [width, tall] = [host.clientWidth, host.clientHeight || height];
      if (!width) return;
      latest.current.onWidth?.(width);
      // Setting a size draws all anew, and the first call only tells what is known.
      if (width !== made.width || tall !== made.height) made.setSize({ width, height: tall });
    };
    const sized = new ResizeObserver(fit);
    sized.observe(host);
    const seen = new IntersectionObserver(([entry]) => {
      visible.current = entry.isIntersecting;
      if (visible.current) renew(made, latest.current, logarithmic, drawn);
    });
    seen.observe(host);
    return () => {
      sized.disconnect();
      seen.disconnect();
      if (charts.get(id)?.plot === made) charts.delete(id);
      made.destroy();
      plot.current = null;
    };
  }, [shape, filled]);

  useEffect(() => {
    if (plot.current && visible.current) renew(plot.current, options, logarithmic, drawn);
  });

  const move = (event: KeyboardEvent) => {
    const made = plot.current;
    const jump = ({ ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity } as Record<string, number>)[event.key];
    if (!made || (jump === undefined && event.key !== "Escape")) return;
    if (jump === undefined) return made.setCursor({ left: -10, top: -10 });
    event.preventDefault();
    const x = made.data[0];
    const index = Math.max(0, Math.min(x.length - 1, (made.cursor.idx ?? x.length - 1) + jump));
    made.setCursor({ left: made.valToPos(x[index], "x"), top: made.bbox.height / devicePixelRatio / 2 });
  };

  const said = description(label, curves);
  return (
    <div class={`chart ${small ? "" : "tall"}`} id={id} style={{ "--height": `${height}px` }}>
      <div
        ref={box}
        class={`plot ${focused ? "focused" : ""}`}
        tabIndex={filled ? 0 : -1}
        role="img"
        aria-label={said}
        onKeyDown={move}
        onFocus={() => setFocused(true)}
        onBlur={() => {
          setFocused(false);
          plot.current?.setCursor({ left: -10, top: -10 });
        }}
      />
      <div ref={tip} class="tip" aria-live="polite" hidden />
      {filled ? null : <p class="nothing over">No data yet</p>}
    </div>
  );
}

export function description(label: string, curves: Curve[]): string {
  const parts = curves.flatMap((curve) => {
    const values = curve.y.filter((value): value is number => value !== null);
    if (!values.length) return [];
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    const lost = (curve.gaps ?? []).reduce((sum, gap) => sum + gap.count, 0);
    const name = curves.length > 1 ? `${curve.name} ` : "";
    const text = `${name}${number(values[values.length - 1])} at step ${curve.x[curve.x.length - 1]}, lowest ${number(low)}, highest ${number(high)}`;
    return [lost ? `${text}, ${lost} values not finite` : text];
  });
  return `${label}: ${parts.join("; ") || "no data yet"}`;
}

// The charts that are on the page, by their ids.
const charts = new Map<string, { plot: uPlot; host: HTMLDivElement; latest: Latest }>();

// The chart as a picture with its own ground, as it stands on the screen.
export function savePicture(id: string, name: string): void {
  const canvas = document.querySelector<HTMLCanvasElement>(`#${CSS.escape(id)} canvas`);
  if (!canvas) return;
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext("2d") as CanvasRenderingContext2D;
  pen.fillStyle = palette(canvas.parentElement as HTMLElement)("--card");
  pen.fillRect(0, 0, copy.width, copy.height);
  pen.drawImage(canvas, 0, 0);
  copy.toBlob((blob) => blob && save(blob, `${name}.png`));
}

export function saveDrawing(id: string, name: string): void {
  const found = charts.get(id);
  if (!found) return;
  const { plot, host, latest } = found;
  const { curves, marks = [], label } = latest.current;
  const drawing = asSvg({ plot, curves, marks, title: `${label} · ${name}`, paint: palette(host) });
  save(new Blob([drawing], { type: "image/svg+xml" }), `${name}.svg`);
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// How fast a curve rises for each step, of its smoothed form: between two neighbours there is nothing but noise.
export function slope(curve: Curve, weight: number): Curve {
  const values = smooth(curve.y, Math.max(weight, 0.8)) as number[];
  const reach = Math.max(1, Math.round(values.length / 100));
  const last = values.length - 1;
  const y = values.map((_, index) => {
    const [from, to] = [Math.max(0, index - reach), Math.min(last, index + reach)];
    return curve.x[to] > curve.x[from] ? (values[to] - values[from]) / (curve.x[to] - curve.x[from]) : null;
  });
  return { ...curve, y };
}

// --- uPlot's side ---------------------------------------------------------------------------------

type Latest = { current: Options };

function configured(host: HTMLDivElement, latest: Latest, tip: { current: HTMLDivElement | null }, logarithmic: boolean): uPlot.Options {
  const { curves, small = false, sync } = latest.current;
  const paint = palette(host);
  const font = `${small ? 11 : 12}px system-ui, sans-serif`;
  const series: uPlot.Series[] = [{}];
  curves.forEach((curve, index) => {
    const colour = paint(curve.colour ?? COLOURS[index % COLOURS.length]);
    const scale = curve.axis === "right" ? "right" : "y";
    const plain = { scale, stroke: colour, points: { show: false }, dash: curve.dash };
    if (curve.smoothing) {
      series.push({ ...plain, label: curve.name, width: 1, alpha: 0.35 });
      series.push({ ...plain, label: `${curve.name} smoothed`, width: 2.25 });
    } else series.push({ ...plain, label: curve.name, width: small ? 1.5 : 1.75, points: { show: curve.x.length === 1 } });
  });
  const grid = { stroke: paint("--line"), width: 1 };
  const axis = { font, stroke: paint("--muted"), grid, ticks: { show: false } };
  const right = curves.some((curve) => curve.axis === "right");
  const shortAll = (_: uPlot, values: (number | null)[]) => values.map((value) => (value === null ? "" : short(value)));
  return {
    width: Math.max(100, host.clientWidth),
    height: host.clientHeight || 170,
    padding: [small ? 8 : 18, 12, 0, 0],
    legend: { show: false },
    scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1, log: 10 } },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: small ? 24 : 28,
        gap: 6,
        space: 80,
        values: (_, values) => values.map((value) => (latest.current.formatX ?? ((x) => (Number.isInteger(x) ? short(x) : "")))(value)),
      },
      { ...axis, size: small ? 50 : 56, gap: 6, space: 36, values: shortAll },
      ...(right ? [{ ...axis, scale: "right", side: 1 as const, size: 56, grid: { show: false }, values: shortAll }] : []),
    ],
    series,
    cursor: {
      y: false,
      points: { size: 8 },
      drag: { x: Boolean(latest.current.onZoom), y: false, setScale: false },
      sync: sync ? { key: sync, setSeries: false, scales: ["x", null] } : undefined,
      bind: {
        dblclick: () => () => {
          latest.current.onZoom?.(null);
          return null;
        },
      },
    },
    hooks: {
      drawAxes: [(plot) => drawGaps(plot, latest.current, paint)],
      draw: [(plot) => drawMarks(plot, latest.current, paint)],
      setCursor: [(plot) => showTip(plot, latest.current, tip.current)],
      setSelect: [(plot) => chooseRange(plot, latest.current)],
    },
  };
}

// Colours of the theme as a canvas takes them: the variables may be light-dark().
function palette(host: HTMLElement): (name: string) => string {
  const probe = document.createElement("span");
  probe.className = "probe";
  host.append(probe);
  const known = new Map<string, string>();
  const names = [...COLOURS, "--muted", "--line", "--card", "--text"];
  for (const name of names) {
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  probe.remove();
  return (name) => known.get(name) ?? name;
}

function chooseRange(plot: uPlot, options: Options): void {
  const { left, width } = plot.select;
  if (width < 8 || !options.onZoom) return;
  const [first, last] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")].map(Math.round);
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (last > first) options.onZoom([first, last]);
}

type Paint = (name: string) => string;

function drawGaps(plot: uPlot, options: Options, paint: Paint): void {
  const { ctx: pen, bbox } = plot;
  const ratio = devicePixelRatio;
  pen.save();
  pen.beginPath();
  pen.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  pen.clip();
  for (const gap of options.curves.flatMap((curve) => curve.gaps ?? [])) {
    const [left, right] = [plot.valToPos(gap.first, "x", true), plot.valToPos(gap.last, "x", true)];
    pen.fillStyle = paint("--critical");
    pen.globalAlpha = 0.18;
    pen.fillRect(left - 1.5 * ratio, bbox.top, Math.max(3 * ratio, right - left + 3 * ratio), bbox.height);
    pen.globalAlpha = 1;
    if (options.small) continue;
    pen.font = `600 ${10 * ratio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    pen.fillText(gap.kind === "nan" ? "NaN" : gap.kind, Math.max(bbox.left + 14 * ratio, (left + right) / 2), bbox.top + bbox.height - 9 * ratio);
  }
  pen.restore();
}

function drawMarks(plot: uPlot, options: Options, paint: Paint): void {
  const { ctx: pen, bbox } = plot;
  const ratio = devicePixelRatio;
  const { min, max } = plot.scales.x;
  if (min === undefined || max === undefined || min === null || max === null) return;
  const bottom = bbox.top + bbox.height;
  pen.save();
  for (const mark of options.marks ?? []) {
    if (mark.x < min || mark.x > max) continue;
    const x = Math.round(plot.valToPos(mark.x, "x", true));
    const colour = paint(mark.tone ?? { alert: "--critical", checkpoint: "--ok", eval: "--second", best: "--accent", border: "--muted" }[mark.kind]);
    pen.fillStyle = pen.strokeStyle = colour;
    pen.globalAlpha = mark.faint ? 0.35 : 1;
    pen.lineWidth = ratio;
    pen.beginPath();
    if (mark.kind === "checkpoint") {
      polygon(pen, [[x, bottom - 5 * ratio], [x + 5 * ratio, bottom], [x, bottom + 5 * ratio], [x - 5 * ratio, bottom]]);
    } else if (mark.kind === "alert" || mark.kind === "border") {
      pen.setLineDash(mark.kind === "alert" ? [3 * ratio, 3 * ratio] : [ratio, 4 * ratio]);
      pen.moveTo(x + 0.5, bbox.top);
      pen.lineTo(x + 0.5, bottom);
      pen.stroke();
      pen.setLineDash([]);
      const top = bbox.top;
      pen.beginPath();
      if (mark.kind === "alert") polygon(pen, [[x - 5.5 * ratio, top - 10 * ratio], [x + 5.5 * ratio, top - 10 * ratio], [x, top]]);
    } else if (mark.y !== undefined && !(plot.scales.y.distr === 3 && mark.y <= 0)) {
      const y = Math.min(bottom - 4 * ratio, Math.max(bbox.top + 4 * ratio, plot.valToPos(mark.y, "y", true)));
      if (mark.kind === "eval") pen.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
      else star(pen, x, y, 7 * ratio);
      pen.fill();
      pen.strokeStyle = paint("--card");
      pen.lineWidth = 2 * ratio;
      pen.stroke();
    }
  }
  pen.restore();
}

function polygon(pen: CanvasRenderingContext2D, corners: number[][]): void {
  corners.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
  pen.fill();
}

function star(pen: CanvasRenderingContext2D, x: number, y: number, size: number): void {
  for (let corner = 0; corner < 10; corner += 1) {
    const angle = (corner * Math.PI) / 5 - Math.PI / 2;
    const reach = corner % 2 ? size * 0.45 : size;
    pen[corner ? "lineTo" : "moveTo"](x + reach * Math.cos(angle), y + reach * Math.sin(angle));
  }
  pen.closePath();
}

const SYMBOLS = { alert: "▼", checkpoint: "◆", eval: "●", best: "★", border: "┊" };

function showTip(plot: uPlot, options: Options, tip: HTMLDivElement | null): void {
  if (!tip) return;
  const { idx, left } = plot.cursor;
  if (idx === null || idx === undefined || left === undefined || left < 0) {
    tip.hidden = true;
    return;
  }
  const x = plot.data[0][idx];
  const at = plot.valToPos(x, "x");
  const lines = [`${options.xName ?? "step"} ${options.formatX ? options.formatX(x) : number(x, 15)}`];
  plot.series.forEach((series, index) => {
    const value = index ? plot.data[index][idx] : undefined;
    if (value !== null && value !== undefined) lines.push(`${series.label} ${number(value, 5)}`);
  });
  const near = (options.marks ?? []).filter((mark) => Math.abs(plot.valToPos(mark.x, "x") - at) < 6);
  lines.push(...near.slice(0, 4).map((mark) => `${SYMBOLS[mark.kind]} ${mark.text}`));
  const text = lines.join("\n");
  if (tip.textContent !== text) tip.textContent = text;
  tip.hidden = false;
  const origin = plot.over.offsetLeft;
  const room = plot.root.clientWidth;
  const place = origin + at + 14 + tip.offsetWidth > room ? Math.max(0, origin + at - 14 - tip.offsetWidth) : origin + at + 14;
  tip.style.left = `${place}px`;
  tip.style.top = "22px";
}
