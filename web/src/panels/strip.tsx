// Checkpoints over steps, one lane for each thing that is to become of them. The place says it, and the shape of the mark; never a colour alone.

import { bytes, number } from "../format";
import type { CheckpointRow } from "../types";

export const LANES: [name: string, text: string, dry: string][] = [
  ["kept", "kept", "kept"],
  ["goes", "goes next", "would go"],
  ["trashed", "in trash", "in trash"],
  ["gone", "gone", "gone"],
];

// Within 9 pixels around the mark's place.
const SHAPES: Record<string, string> = {
  kept: "M0 -5.5 5.5 0 0 5.5 -5.5 0Z",
  goes: "M-5 -4 5 -4 0 5Z",
  trashed: "M-4.5 -4.5H4.5V4.5H-4.5Z",
  gone: "M-4 -4 4 4M4 -4-4 4",
};

const LANE = 22;

// So many marks would hide each other: they become narrow.
const DENSE = 40;

export const keyOf = (row: CheckpointRow): string => `${row.host} ${row.id || row.path}`;

export function laneOf(row: CheckpointRow): string {
  if (row.state === "trashed" || row.state === "gone") return row.state;
  return row.state === "goes" ? "goes" : "kept";
}

function told(row: CheckpointRow): string {
  return [`step ${number(row.step)}`, row.state, row.pinned && "pinned", row.leases.length && "leased", bytes(row.bytes), ...row.reasons].filter(Boolean).join(" · ");
}

interface Options {
  rows: CheckpointRow[];
  dry: boolean;
  lane: string;
  choose: (lane: string) => void;
  pick: (row: CheckpointRow) => void;
}

export function Strip({ rows, dry, lane, choose, pick }: Options) {
  const steps = rows.map((row) => row.step);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const at = (step: number) => `${last > first ? ((step - first) / (last - first)) * 100 : 50}%`;
  const lanes = LANES.map(([name, text, dryText]) => ({ name, text: dry ? dryText : text, rows: rows.filter((row) => laneOf(row) === name) })).filter((found) => found.rows.length);
  const marked = new Set(rows.flatMap((row) => [...(row.pinned ? ["pinned"] : []), ...(row.leases.length ? ["leased"] : [])]));
  return (
    <div class="strip" id="strip">
      {lanes.map((found) => {
        const size = found.rows.reduce((sum, row) => sum + (row.bytes ?? 0), 0);
        return (
          <div class={`lane ${found.name} ${found.rows.length > DENSE ? "dense" : ""} ${lane && lane !== found.name ? "dimmed" : ""}`} key={found.name}>
            <button type="button" aria-pressed={lane === found.name} title="Show only these below" onClick={() => choose(found.name)}>
              <b>{found.text}</b> <span class="meta">{[number(found.rows.length), size && found.name !== "gone" ? bytes(size) : ""].filter(Boolean).join(" · ")}</span>
            </button>
            <svg height={LANE} role="img" aria-label={`${found.text}: ${found.rows.length} checkpoints, steps ${number(Math.min(...found.rows.map((row) => row.step)))} to ${number(Math.max(...found.rows.map((row) => row.step)))}`}>
              <line x1="0" x2="100%" y1={LANE / 2} y2={LANE / 2} />
              {found.rows.map((row) => (
                <svg class="mark" x={at(row.step)} y={LANE / 2} overflow="visible" key={keyOf(row)} onClick={() => pick(row)}>
                  <title>{told(row)}</title>
                  <path d={SHAPES[found.name]} />
                  {row.leases.length ? <circle class="leased" r="8.5" /> : null}
                  {row.pinned ? <path class="pin" d="M-3.5 -10.5H3.5M0 -10.5V-5.5" /> : null}
                </svg>
              ))}
            </svg>
          </div>
        );
      })}
      <div class="steps meta">
        <span class="signs">
          {marked.has("pinned") ? <span>⊤ pinned</span> : null}
          {marked.has("leased") ? <span>◌ leased</span> : null}
        </span>
        <span>step {number(first)}</span>
        {last > first ? <span>{number(last)}</span> : null}
      </div>
    </div>
  );
}
