// The live tail of all events: searched through the whole journal, held still on demand, paged back.

import { useEffect, useMemo, useState } from "preact/hooks";
import { connections, tail, useRun } from "../model";
import { clock, number } from "../format";
import { useSettled } from "../observable";
import { Nothing, Panel } from "../panel";
import { Looking, gist } from "../tail";
import { useQueued } from "./queue";

const KINDS = [
  "alert", "checkpoint", "command", "command_result", "eval", "gap", "job", "metric", "phase", "plugin", "retention", "run_ended", "run_started", "sample", "step", "system",
];

function useLooking(text: string, kind: string, run: string): [looking: Looking, again: () => void] {
  const [times, setTimes] = useState(0);
  const [, redraw] = useState(0);
  const looking = useMemo(() => new Looking({ text, kind, run }, () => redraw((count) => count + 1)), [text, kind, run, times]);
  useEffect(() => {
    const take = () => looking.take(tail.value);
    take();
    // Where few of the events at hand match, the journal has more.
    if (looking.narrowed) looking.back(false);
    const stops = [tail.watch(take), connections.watch(() => looking.live && setTimes((count) => count + 1))];
    return () => {
      for (const stop of stops) stop();
      looking.end();
    };
  }, [looking]);
  return [looking, () => setTimes((count) => count + 1)];
}

function End({ looking }: { looking: Looking }) {
  if (looking.problem) {
    return (
      <p class="end" role="alert">
        <span class="bad">{looking.problem}</span>{" "}
        <button type="button" class="quiet small" onClick={() => looking.back(true)}>
          Try again
        </button>
      </p>
    );
  }
  return (
    <p class="end">
      {looking.busy ? (
        <span role="status">Searching the journal …</span>
      ) : looking.next === null ? (
        <span class="meta">That is all.</span>
      ) : (
        <button id="events-older" type="button" class="quiet small" onClick={() => looking.back(true)}>
          {looking.narrowed ? "Search further back" : "Older events"}
        </button>
      )}
      {looking.narrowed && looking.looked ? <span class="meta"> {number(looking.looked)} events of the journal searched</span> : null}
    </p>
  );
}

export function EventsPanel() {
  const queued = useQueued();
  const shown = useRun()?.run ?? "";
  const [filter, setFilter] = useState("");
  const [kind, setKind] = useState("");
  const [only, setOnly] = useState(false);
  const [looking, again] = useLooking(useSettled(filter.trim()), kind, only ? shown : "");
  const { events, live } = looking;
  return (
    <Panel
      id="events"
      title="Events"
      span={queued ? "full" : "wide"}
      count={live ? "" : "held"}
      tools={
        <>
          <label class="control">
            <span class="hidden">Kind of events</span>
            <select id="events-kind" value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
              <option value="">every kind</option>
              {KINDS.map((name) => (
                <option key={name} value={name}>
                  {name.replaceAll("_", " ")}
                </option>
              ))}
            </select>
          </label>
          <label class="control">
            <input id="events-run" type="checkbox" checked={only} onChange={(event) => setOnly(event.currentTarget.checked)} /> This run
          </label>
          <label class="control">
            <span class="hidden">Search all events</span>
            <input id="events-filter" type="search" placeholder="Search all events" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
          </label>
          <button id="events-hold" type="button" class="quiet small" aria-pressed={!live} onClick={() => (live ? looking.hold() : again())}>
            {live ? "Hold" : "Go on"}
          </button>
        </>
      }
    >
      <div id="events" class="scroll mono" role="log" aria-live="off" tabIndex={0} aria-label="Latest events">
        {events.length ? (
          events
            .slice()
            .reverse()
            .map((event) => (
              <div class="event" key={event.offset} title={`offset ${event.offset} · ${event.source}`}>
                <span class="when">{clock(event.time)}</span> <b>{event.kind}</b> <span class="meta">{event.run}</span> {gist(event)}
              </div>
            ))
        ) : looking.busy ? null : (
          <Nothing>{looking.narrowed ? "No event matches." : "No event yet."}</Nothing>
        )}
        {events.length || looking.narrowed ? <End looking={looking} /> : null}
      </div>
    </Panel>
  );
}
