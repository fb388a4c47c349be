// The frame of every panel: title, tools, folding, moving, and its own loading, error, stale and empty states. What breaks inside one
// panel stays inside it.

import { Component, type ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import type { Resource } from "./model";
import { Setting, useValue } from "./observable";

export const folded = new Setting<string[]>("trainbus-folded", []);
export const order = new Setting<string[]>("trainbus-order", []);
// How many of the three columns a panel takes, where the visitor has chosen.
export const widths = new Setting<Record<string, number>>("trainbus-widths", {});

// The columns that a panel takes by itself, by its class.
const COLUMNS: Record<string, number> = { full: 3, loss: 2, wide: 2, half: 2 };
const MOST = 3;

// How often each panel was drawn: what a page costs follows from it.
export const drawings = new Map<string, number>();

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
  drawings.set(id, (drawings.get(id) ?? 0) + 1);
  const chosen = useValue(widths, (value) => value[id] ?? 0);
  const columns = chosen || (COLUMNS[span] ?? 1);
  const widen = (by: number) => (widths.value = { ...widths.value, [id]: Math.min(MOST, Math.max(1, columns + by)) });
  const fold = () => (folded.value = shut ? folded.value.filter((other) => other !== id) : [...folded.value, id]);
  return (
    <section
      ref={box}
      class={`card ${span} ${chosen ? `columns-${columns}` : ""} ${shut ? "folded" : ""}`}
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
          <button type="button" class="fold" aria-expanded={!shut} title="Fold; Alt with ↑ or ↓ moves the panel, with ← or → makes it narrower or wider" onClick={fold} onKeyDown={(event) => arrange(event, id, widen)}>
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
        <button
          type="button"
          class="plain width"
          title={`${columns} of ${MOST} columns wide; press for ${(columns % MOST) + 1}`}
          aria-label={`${title}: ${columns} of ${MOST} columns wide. Change`}
          onClick={() => widen(columns === MOST ? 1 - MOST : 1)}
        >
          ⇔
        </button>
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

// The keyboard's way to move a panel by one place, and to make it narrower or wider by one column.
function arrange(event: KeyboardEvent, id: string, widen: (by: number) => void): void {
  const by = event.altKey ? ({ ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 } as Record<string, number>)[event.key] : undefined;
  if (by === undefined) return;
  event.preventDefault();
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") return widen(by);
  const target = shown[shown.indexOf(id) + by];
  if (target !== undefined) place(id, target);
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
