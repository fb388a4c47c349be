// The live tail of all events, searchable, and held still on demand.

import { useState } from "preact/hooks";
import { tail } from "../model";
import { clock } from "../format";
import { useValue } from "../observable";
import { Nothing, Panel } from "../panel";
import { useQueued } from "./queue";
import type { BusEvent } from "../types";

const SHOWN = 200;
const PLAIN = new Set(["kind", "run", "source", "seq", "time", "offset", "not_finite"]);

// The fields that say something, in one line.
function gist(event: BusEvent): string {
  const parts = Object.entries(event).flatMap(([name, value]) => {
    if (PLAIN.has(name) || value === null || value === "" || (typeof value === "object" && !Object.keys(value as object).length)) return [];
    if (name === "metrics") return Object.entries(value as Record<string, unknown>).map(([metric, found]) => `${metric} ${typeof found === "number" ? Number(found.toPrecision(4)) : found}`);
    return [`${name} ${typeof value === "object" ? JSON.stringify(value) : value}`];
  });
  return parts.join("  ").slice(0, 400);
}

const matches = (event: BusEvent, wanted: string) => `${event.kind} ${event.run} ${event.source} ${gist(event)}`.toLowerCase().includes(wanted);

export function EventsPanel() {
  const live = useValue(tail);
  const queued = useQueued();
  const [filter, setFilter] = useState("");
  const [held, setHeld] = useState<readonly BusEvent[] | null>(null);
  const events = held ?? live;
  const wanted = filter.toLowerCase().trim();
  const found = (wanted ? events.filter((event) => matches(event, wanted)) : events).slice(-SHOWN).reverse();
  return (
    <Panel
      id="events"
      title="Events"
      span={queued ? "full" : "wide"}
      count={held ? "held" : ""}
      tools={
        <>
          <label class="control">
            <span class="hidden">Filter events</span>
            <input id="events-filter" type="search" placeholder="Filter" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
          </label>
          <button type="button" class="quiet small" aria-pressed={held !== null} onClick={() => setHeld(held ? null : live)}>
            {held ? "Go on" : "Hold"}
          </button>
        </>
      }
    >
      <div id="events" class="scroll mono" role="log" aria-live="off" tabIndex={0} aria-label="Latest events">
        {found.length ? (
          found.map((event) => (
            <div class="event" key={event.offset} title={`offset ${event.offset} · ${event.source}`}>
              <span class="when">{clock(event.time)}</span> <b>{event.kind}</b> <span class="meta">{event.run}</span> {gist(event)}
            </div>
          ))
        ) : (
          <Nothing>{wanted ? "No event matches." : "No event yet."}</Nothing>
        )}
      </div>
    </Panel>
  );
}
