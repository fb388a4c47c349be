// The frame of every panel: title, tools, folding, moving, and its own loading, error, stale and empty states. What breaks inside one
// panel stays inside it.

import { Component, type ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import type { Resource } from "./model";
import { Setting, useValue } from "./observable";

export const folded = new Setting<string[]>("trainbus-folded", []);
export const order = new Setting<string[]>("trainbus-order", []);

interface Frame {
  id: string;
  title: string;
  span: string;
  count?: string;
  tools?: ComponentChildren;
  // Why what is shown is old or incomplete; empty when it is fresh.
  stale?: string;
  children: ComponentChildren;
}

export function Panel({ id, title, span, count, tools, stale, children }: Frame) {
  const shut = useValue(folded).includes(id);
  const box = useRef<HTMLElement>(null);
  const fold = () => (folded.value = shut ? folded.value.filter((other) => other !== id) : [...folded.value, id]);
  return (
    <section
      ref={box}
      class={`card ${span} ${shut ? "folded" : ""}`}
      id={`panel-${id}`}
      aria-labelledby={`title-${id}`}
      onDragOver={(event) => event.dataTransfer?.types.includes("text/trainbus-panel") && event.preventDefault()}
      onDrop={(event) => {
        const moved = event.dataTransfer?.getData("text/trainbus-panel");
        if (moved) place(moved, id);
      }}
    >
      <div class="head">
        <span class="grip" aria-hidden="true" draggable title="Drag to move this panel" onDragStart={(event) => event.dataTransfer?.setData("text/trainbus-panel", id)}>
          ⠿
        </span>
        <h2 id={`title-${id}`}>
          <button type="button" class="fold" aria-expanded={!shut} title="Fold; Alt with ↑ or ↓ moves the panel" onClick={fold} onKeyDown={(event) => shift(event, id)}>
            <span aria-hidden="true">{shut ? "▸" : "▾"}</span> {title}
          </button>
        </h2>
        {count ? <span class="count">{count}</span> : null}
        {stale ? (
          <span class="stale-mark" role="status" title={stale}>
            ⚠ {stale}
          </span>
        ) : null}
        <div class="spacer" />
        {shut ? null : tools}
      </div>
      {shut ? null : (
        <Boundary name={title}>
          <div class="body">{children}</div>
        </Boundary>
      )}
    </section>
  );
}

// The panels of the page in the order that the visitor gave them.
export function arranged(ids: string[], wanted: string[]): string[] {
  const known = wanted.filter((id) => ids.includes(id));
  for (const [index, id] of ids.entries()) {
    if (known.includes(id)) continue;
    // A panel that is new stands behind its neighbour of the built-in order.
    const before = ids.slice(0, index).reverse().find((other) => known.includes(other));
    known.splice(before === undefined ? 0 : known.indexOf(before) + 1, 0, id);
  }
  return known;
}

let shown: string[] = [];

export function remember(ids: string[]): void {
  shown = ids;
}

function place(moved: string, target: string): void {
  if (moved === target) return;
  const down = shown.indexOf(moved) < shown.indexOf(target);
  const rest = shown.filter((id) => id !== moved);
  rest.splice(rest.indexOf(target) + (down ? 1 : 0), 0, moved);
  order.value = rest;
}

// The keyboard's way to move a panel: by one place.
function shift(event: KeyboardEvent, id: string): void {
  const by = event.altKey ? ({ ArrowUp: -1, ArrowDown: 1 } as Record<string, number>)[event.key] : undefined;
  const target = by === undefined ? undefined : shown[shown.indexOf(id) + by];
  if (target === undefined) return;
  event.preventDefault();
  place(id, target);
}

class Boundary extends Component<{ name: string; children: ComponentChildren }, { error: Error | null }> {
  state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  render() {
    if (!this.state.error) return this.props.children;
    return (
      <div class="nothing" role="alert">
        <p>This panel broke: {this.state.error.message}</p>
        <button type="button" class="quiet small" onClick={() => this.setState({ error: null })}>
          Try again
        </button>
      </div>
    );
  }
}

export const Nothing = ({ children }: { children: ComponentChildren }) => <p class="nothing">{children}</p>;

export const Skeleton = ({ rows = 3 }: { rows?: number }) => (
  <div class="skeleton" role="status" aria-label="Loading">
    {Array.from({ length: rows }, (_, index) => (
      <span key={index} />
    ))}
  </div>
);

// What a list shows before it has entries: loading, a problem with a way out, or that there are none.
export function Waiting({ resource, empty, none }: { resource: Resource<unknown>; empty: boolean; none: ComponentChildren }) {
  if (resource.problem && !resource.data) {
    return (
      <div class="nothing" role="alert">
        <p>{resource.problem}</p>
        <button type="button" class="quiet small" onClick={resource.retry}>
          Try again
        </button>
      </div>
    );
  }
  if (!resource.data) return <Skeleton />;
  return empty ? <Nothing>{none}</Nothing> : null;
}

export const staleOf = (resource: Resource<unknown>): string => (resource.problem && resource.data ? "not refreshed" : "");

export const Pill = ({ text, tone = "" }: { text: string; tone?: string }) => <span class={`pill ${tone}`}>{text}</span>;

export const TONES: Record<string, string> = {
  running: "ok", completed: "info", complete: "ok", done: "ok", low: "ok", stopped: "", deleted: "", writing: "info", starting: "info", accepted: "info", sent: "info",
  queued: "", processing: "info", skipped: "", stuck: "warning", medium: "warning", failed: "critical", lost: "critical", high: "critical", refused: "critical",
};

export type Column = [name: string, kind?: "num" | "grow"];

export function Table({ columns, rows, label }: { columns: Column[]; rows: { key: string | number; faint?: boolean; picked?: boolean; cells: ComponentChildren[] }[]; label: string }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table>
        <thead>
          <tr>
            {columns.map(([name, kind]) => (
              <th key={name} class={kind} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.key} class={[row.faint && "faded", row.picked && "picked"].filter(Boolean).join(" ")}>
              {row.cells.map((cell, index) => (
                <td key={index} class={columns[index][1]}>
                  {cell}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Meter({ name, share, text, levels = [0.7, 0.85] }: { name: string; share: number | null; text: string; levels?: [number, number] }) {
  const level = share === null ? "" : share >= levels[1] ? "critical" : share >= levels[0] ? "warning" : "ok";
  const width = Math.min(100, Math.round((share ?? 0) * 1000) / 10);
  return (
    <div class="meter">
      <div class="line">
        <span>{name}</span>
        <span class="label">{text}</span>
      </div>
      <div class="bar" role="meter" aria-label={name} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(width)} aria-valuetext={text}>
        <div class={`fill ${level}`} style={{ width: `${width}%` }} />
      </div>
    </div>
  );
}
