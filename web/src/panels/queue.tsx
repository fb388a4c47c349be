// The data files of the run, when they will be done, and a way to add some.

import { useState } from "preact/hooks";
import { Orders } from "../commands";
import { add, uploads, type Upload } from "../drop";
import { now, state, useList, useRun } from "../model";
import { bytes, clock, duration, number, percent } from "../format";
import { useValue } from "../observable";
import { Nothing, Panel, Pill, TONES, Table, staleOf } from "../panel";
import { HoldButton, JobButtons, Question, nameOf, ofQueue, say, useQueueOrders } from "./queue_orders";
import type { Forecast, Job } from "../types";

// Whether there is anything to show: files, or a way to add some.
export function useQueued(): boolean {
  const run = useRun();
  const offered = useValue(state, (value) => Boolean(value?.uploads));
  const sending = useValue(uploads).length > 0;
  return Boolean(run?.versions.jobs) || offered || sending;
}

function Finish({ forecast }: { forecast: Forecast }) {
  const at = useValue(now);
  const left = (end: number) => Math.max(0, end / 1e9 - at / 1000);
  const between = forecast.finished > 1 ? ` (${duration(left(forecast.earliest))} to ${duration(left(forecast.latest))})` : "";
  return (
    <p id="queue-finish" class="finish">
      <b>
        done in about {duration(left(forecast.done))}
        {between}, at {clock(forecast.done)}
      </b>
      <span class="meta">
        {" "}
        {number(forecast.files)} file{forecast.files === 1 ? "" : "s"}, {bytes(forecast.bytes)} left · {bytes(forecast.bytes_per_second * 3600)} an hour, by the last {forecast.finished} finished
      </span>
    </p>
  );
}

function Sending({ upload }: { upload: Upload }) {
  const tone = { sending: "info", done: "ok", refused: "critical" }[upload.state];
  return (
    <li class={upload.state}>
      <span class="name">{upload.name}</span> <Pill text={upload.state === "sending" ? percent(upload.size ? upload.sent / upload.size : 0) : upload.state === "done" ? "added" : "refused"} tone={tone} />{" "}
      <span class={upload.state === "refused" ? "bad" : "meta"}>{upload.told || bytes(upload.size)}</span>
    </li>
  );
}

function Adding() {
  const offered = useValue(state, (value) => value?.uploads ?? null);
  const sent = useValue(uploads);
  const [priority, setPriority] = useState("normal");
  return (
    <>
      {offered ? (
        <div class="adding">
          <label class="chooser">
            <input
              id="queue-add"
              type="file"
              multiple
              accept={offered.endings.join(",")}
              onChange={(event) => {
                add([...(event.currentTarget.files ?? [])], priority);
                event.currentTarget.value = "";
              }}
            />
            Add files …
          </label>
          <label class="control">
            Priority
            <select id="queue-priority" value={priority} onChange={(event) => setPriority(event.currentTarget.value)}>
              {["high", "normal", "low"].map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </label>
          <span class="meta">or drop them anywhere on this page</span>
        </div>
      ) : null}
      <ul id="uploads" class="uploads" aria-live="polite" aria-label="Added files">
        {sent.map((upload) => (
          <Sending upload={upload} key={upload.id} />
        ))}
      </ul>
    </>
  );
}

export function QueuePanel() {
  const run = useRun();
  const resource = useList<Job>("jobs");
  const shown = useQueued();
  const sending = useQueueOrders();
  const entries = resource.data?.entries ?? [];
  const counts = new Map<string, number>();
  for (const job of entries) counts.set(job.state, (counts.get(job.state) ?? 0) + 1);
  if (!shown) return null;
  return (
    <Panel id="queue" title="Queue" span="wide" count={[...counts].map(([name, count]) => `${count} ${name}`).join(", ")} stale={staleOf(resource)}
      tools={
        entries.length ? (
          <>
            {sending.held ? <Pill text="held" tone="warning" /> : null}
            {sending.may ? <HoldButton sending={sending} /> : null}
          </>
        ) : null
      }
    >
      <div id="queue">
        {run?.queue ? <Finish forecast={run.queue} /> : null}
        {entries.length ? (
          <Table
            label="Queue"
            columns={[["File", "grow"], ["State"], ["Priority"], ["Size", "num"], ["Examples", "num"], ["Done", "num"], ["Why"], ...(sending.may ? [["Actions"] as [string]] : [])]}
            rows={entries.map((job) => ({
              key: job.id || job.file,
              faint: job.state === "completed" || job.state === "skipped",
              cells: [
                <span title={job.file}>{nameOf(job)}</span>,
                <Pill text={job.state} tone={TONES[job.state]} />,
                job.priority,
                bytes(job.bytes),
                number(job.examples),
                job.done ? <span title="at the pace of the last finished files">≈ {clock(job.done)}</span> : job.state === "completed" ? clock(job.time) : "–",
                job.reason,
                ...(sending.may ? [<JobButtons job={job} sending={sending} />] : []),
              ],
            }))}
          />
        ) : (
          <Nothing>No file waits.</Nothing>
        )}
        {sending.problem ? (
          <p class="bad" role="alert">
            {sending.problem}
          </p>
        ) : null}
        <Orders id="queue-orders" label="What was asked of the queue" mine={ofQueue} say={(order) => say(order, entries)} />
        <Adding />
        <Question sending={sending} />
      </div>
    </Panel>
  );
}
