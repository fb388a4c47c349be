// A chart as an SVG file: the same lines, marks and axes as on the screen, in any size, for a report.

import type uPlot from "uplot";
import type { Curve, Mark } from "./chart";

export interface Drawn {
  plot: uPlot;
  title: string;
  curves: Curve[];
  marks: Mark[];
  paint: (name: string) => string;
}

const escaped = (text: string): string => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");
const round = (value: number): string => value.toFixed(2).replace(/\.?0+$/, "");

// What uPlot has laid out for an axis; it has no other way to ask for that.
interface LaidOut {
  scale: string;
  side: number;
  _splits?: number[] | null;
  _values?: (string | null)[] | null;
}

interface LaidSeries {
  scale: string;
  show: boolean;
  width: number;
  alpha: number;
  dash?: number[];
  label: string;
  _stroke?: string;
}

export function asSvg({ plot, title, curves, marks, paint }: Drawn): string {
  const ratio = devicePixelRatio;
  const [width, height] = [plot.width, plot.height + 26];
  const [left, top, wide, tall] = [plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height].map((pixels) => pixels / ratio);
  const [above, bottom, right] = [top + 26, top + tall + 26, left + wide];
  const at = (value: number, scale: string): number => (scale === "x" ? left : above) + plot.valToPos(value, scale);
  const parts: string[] = [];
  const add = (name: string, attributes: Record<string, string | number>, text = "") => {
    const told = Object.entries(attributes).map(([key, value]) => ` ${key}="${typeof value === "number" ? round(value) : escaped(value)}"`);
    parts.push(text ? `<${name}${told.join("")}>${escaped(text)}</${name}>` : `<${name}${told.join("")}/>`);
  };
  add("rect", { width, height, fill: paint("--card") });
  add("text", { x: 12, y: 19, fill: paint("--text"), "font-weight": "600", "font-size": 14 }, title);
  for (const axis of plot.axes as unknown as LaidOut[]) {
    axis._splits?.forEach((value, index) => {
      const text = axis._values?.[index];
      if (value === null || !text) return;
      const place = at(value, axis.scale);
      if (axis.scale === "x") add("text", { x: place, y: bottom + 18, fill: paint("--muted"), "text-anchor": "middle" }, text);
      else if (axis.side === 1) add("text", { x: right + 8, y: place + 4, fill: paint("--muted") }, text);
      else {
        add("line", { x1: left, x2: right, y1: place, y2: place, stroke: paint("--line") });
        add("text", { x: left - 8, y: place + 4, fill: paint("--muted"), "text-anchor": "end" }, text);
      }
    });
  }
  parts.push(`<clipPath id="inside"><rect x="${round(left)}" y="${round(above)}" width="${round(wide)}" height="${round(tall)}"/></clipPath><g clip-path="url(#inside)">`);
  for (const gap of curves.flatMap((curve) => curve.gaps ?? [])) {
    const [begin, end] = [at(gap.first, "x"), at(gap.last, "x")];
    add("rect", { x: begin - 1.5, y: above, width: Math.max(3, end - begin + 3), height: tall, fill: paint("--critical"), opacity: 0.18 });
  }
  (plot.series as unknown as LaidSeries[]).forEach((series, index) => {
    if (!index || !series.show) return;
    const lines = segments(plot.data[0], plot.data[index], (x, y) => `${round(at(x, "x"))},${round(at(y, series.scale))}`);
    for (const points of lines) {
      add("polyline", {
        points, fill: "none", stroke: series._stroke ?? paint("--accent"), "stroke-width": series.width, opacity: series.alpha ?? 1,
        ...(series.dash ? { "stroke-dasharray": series.dash.join(" ") } : {}),
      });
    }
  });
  parts.push("</g>");
  const { min, max } = plot.scales.x;
  for (const mark of marks) {
    if (min === undefined || max === undefined || mark.x < min || mark.x > max) continue;
    const x = at(mark.x, "x");
    const fill = paint(mark.tone ?? { alert: "--critical", checkpoint: "--ok", eval: "--second", best: "--accent", border: "--muted" }[mark.kind]);
    const opacity = mark.faint ? 0.35 : 1;
    parts.push(`<g><title>${escaped(mark.text)}</title>`);
    if (mark.kind === "checkpoint") add("path", { d: `M${round(x)} ${round(bottom - 5)}l5 5-5 5-5-5Z`, fill, opacity });
    else if (mark.kind === "alert" || mark.kind === "border") {
      add("line", { x1: x, x2: x, y1: above, y2: bottom, stroke: fill, "stroke-dasharray": mark.kind === "alert" ? "3 3" : "1 4" });
      if (mark.kind === "alert") add("path", { d: `M${round(x - 5.5)} ${round(above - 10)}h11l-5.5 10Z`, fill });
    } else if (mark.y !== undefined && !(plot.scales.y.distr === 3 && mark.y <= 0)) {
      const y = Math.min(bottom - 4, Math.max(above + 4, at(mark.y, "y")));
      add("circle", { cx: x, cy: y, r: mark.kind === "eval" ? 5 : 6, fill, stroke: paint("--card"), "stroke-width": 2 });
    }
    parts.push("</g>");
  }
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="system-ui, sans-serif" font-size="12">${parts.join("")}</svg>\n`;
}

// Null breaks a line, undefined is passed over.
function segments(x: ArrayLike<number>, y: ArrayLike<number | null | undefined>, say: (x: number, y: number) => string): string[] {
  const lines: string[][] = [[]];
  for (let index = 0; index < x.length; index += 1) {
    const value = y[index];
    if (value === null) lines.push([]);
    else if (value !== undefined) lines[lines.length - 1].push(say(x[index], value));
  }
  return lines.filter((line) => line.length > 1).map((line) => line.join(" "));
}
