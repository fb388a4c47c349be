// The checkpoints of a run over its steps: what is to become of each and why, the disks that hold them, and for an operator pin, unpin
// and restore. Without retention it shows what the checkpoints themselves say.

import { useState } from "preact/hooks";
import { CommandDialog, LONG_AGO, command, pending } from "../commands";
import { now, state, useList, useResource, useRun } from "../model";
import { bytes, clock, duration, number } from "../format";
import { useValue } from "../observable";
import { Panel, Pill, Table, Waiting, staleOf } from "../panel";
import { DiskUse } from "./disks";
import { Metrics } from "./lists";
import { LANES, Strip, keyOf, laneOf } from "./strip";
import type { CheckpointRow, Checkpoints, Order } from "../types";

// An answer that takes longer may never come: retention may not be running where the checkpoint is.
const SLOW = 10_000;

const NOTHING: Checkpoints = { version: 0, checkpoints: [], disks: [] };

const STATE_TONES: Record<string, string> = { complete: "ok", kept: "ok", writing: "info", goes: "warning", thins: "warning", trashed: "info", gone: "" };

function stateOf(row: CheckpointRow): string {
  if (row.state === "goes") return row.dry_run ? "would go" : "goes";
  if (row.state === "thins") return row.dry_run ? "would be thinned" : "will be thinned";
  return row.state === "trashed" ? "in trash" : row.state;
}

interface Deed {
  verb: string;
  text: string;
  title: string;
  explained: string;
}

const PIN: Deed = { verb: "pin", text: "Pin", title: "Pin this checkpoint?", explained: "No policy and no limit deletes it until it is unpinned." };
const UNPIN: Deed = { verb: "unpin", text: "Unpin", title: "Unpin this checkpoint?", explained: "The policies decide about it again: it goes when none of them keeps it." };
const RESTORE: Deed = { verb: "restore", text: "Restore", title: "Restore this checkpoint?", explained: "It comes back from the trash to its place." };

function deedsFor(row: CheckpointRow): Deed[] {
  if (!row.managed) return [];
  const deeds: Deed[] = [];
  if (row.restorable) deeds.push(row.state === "trashed" ? RESTORE : { ...RESTORE, text: "Restore optimizer", explained: "Its optimizer state comes back from the trash." });
  if (["kept", "goes", "thins"].includes(row.state)) deeds.push(row.pinned ? UNPIN : PIN);
  return deeds;
}

function Ask({ row, deed, run, close }: { row: CheckpointRow; deed: Deed; run: string; close: () => void }) {
  const [pin, setPin] = useState(true);
  const restores = deed.verb === "restore";
  return (
    <CommandDialog
      title={deed.title}
      subject={`step ${number(row.step)} · ${row.path || row.id}`}
      text={deed.explained}
      button={deed.text}
      send={(reason) => command(run, { verb: deed.verb, plugin: "retention", arguments: { checkpoint: row.id, ...(restores && !pin ? { pin } : {}) }, reason })}
      close={close}
    >
      {restores ? (
        <label class="check">
          <input name="pin" type="checkbox" checked={pin} onChange={(event) => setPin(event.currentTarget.checked)} /> Pin it, so that the same policies don't take it again
        </label>
      ) : null}
    </CommandDialog>
  );
}

// What was asked about a checkpoint last, until its result comes and for a minute after.
function Told({ order, row }: { order: Order; row: CheckpointRow }) {
  const waited = Math.max(0, useValue(now) - order.time / 1e6);
  const why = pending(order)
    ? waited > SLOW
      ? `no answer for ${duration(waited / 1000)}: is retention running on ${row.host || "its machine"}?`
      : duration(waited / 1000)
    : order.reason;
  return (
    <span class={`told ${order.state}`} role="status">
      {order.verb} <Pill text={pending(order) ? "on its way" : order.state} tone={order.state === "refused" ? "critical" : order.state === "done" ? "ok" : "info"} /> <span class="meta">{why}</span>
    </span>
  );
}

function Why({ row, best, order, newest }: { row: CheckpointRow; best: boolean; order?: Order; newest: number }) {
  const shown = order && (pending(order) || newest - (order.answered ?? 0) / 1e6 < LONG_AGO);
  return (
    <div class="why">
      <span title={row.path}>
        {best ? <span title="the lowest loss">★ </span> : null}
        {row.reasons.join("; ") || row.path.split("/").at(-1) || "–"}
        {row.state === "trashed" && row.until ? <span class="meta"> · can be restored until {clock(row.until)} at the latest</span> : null}
      </span>
      {shown ? <Told order={order} row={row} /> : null}
    </div>
  );
}

export function CheckpointsPanel() {
  const run = useRun();
  const resource = useResource<Checkpoints>(run ? `/api/runs/${encodeURIComponent(run.run)}/checkpoints` : "", [], run?.versions.fates ?? 0, NOTHING);
  const orders = useList<Order>("commands").data?.entries ?? [];
  const operator = useValue(state, (value) => value?.role) === "operator";
  const at = useValue(now);
  const [lane, setLane] = useState("");
  const [picked, setPicked] = useState("");
  const [asked, setAsked] = useState<{ row: CheckpointRow; deed: Deed } | null>(null);
  const rows = resource.data?.checkpoints ?? [];
  const managed = rows.some((row) => row.managed);
  const dry = rows.some((row) => row.dry_run);
  const here = rows.filter((row) => row.state !== "gone" && row.state !== "trashed" && row.state !== "writing");
  const size = here.reduce((sum, row) => sum + (row.bytes ?? 0), 0);
  const shown = lane ? rows.filter((row) => laneOf(row) === lane) : rows;
  const hosts = new Set(rows.map((row) => row.host)).size > 1;
  const lastOrder = (row: CheckpointRow) => (row.id ? orders.find((order) => order.plugin === "retention" && order.arguments.checkpoint === row.id) : undefined);
  const pick = (row: CheckpointRow) => {
    setLane("");
    setPicked(keyOf(row));
    requestAnimationFrame(() => document.querySelector("#checkpoints tr.picked")?.scrollIntoView({ block: "nearest" }));
  };
  return (
    <Panel
      id="checkpoints"
      title="Checkpoints"
      span="wide"
      count={rows.length ? `${number(here.length)} in place${size ? `, ${bytes(size)}` : ""}` : ""}
      stale={staleOf(resource)}
      tools={
        <>
          {dry ? <Pill text="dry run: nothing is deleted" tone="info" /> : null}
          {lane ? (
            <button type="button" class="quiet small" onClick={() => setLane("")}>
              Show all
            </button>
          ) : null}
        </>
      }
    >
      <div id="checkpoints">
        <Waiting resource={resource} empty={!rows.length} none="No checkpoint yet." />
        {rows.length ? <Strip rows={rows} dry={dry} lane={lane} choose={(wanted) => setLane(lane === wanted ? "" : wanted)} pick={pick} /> : null}
        {resource.data?.disks.map((disk) => (
          <DiskUse disk={disk} key={`${disk.host} ${disk.path}`} />
        ))}
        {rows.length ? (
          <Table
            label={lane ? `Checkpoints: ${LANES.find(([name]) => name === lane)?.[1]}` : "Checkpoints"}
            columns={[["Step", "num"], ["State"], ["Size", "num"], ["Metrics"], ["Why", "grow"], ["Time", "num"], ...(operator && managed ? [["Actions"] as [string]] : [])]}
            rows={shown.map((row) => {
              const order = lastOrder(row);
              return {
                key: keyOf(row),
                faint: row.state === "gone",
                picked: keyOf(row) === picked,
                cells: [
                  number(row.step),
                  <span class="pills">
                    <Pill text={stateOf(row)} tone={STATE_TONES[row.state]} />
                    {row.pinned ? <Pill text="pinned" tone="accent" /> : null}
                    {row.leases.length ? <Pill text="leased" tone="second" /> : null}
                    {row.thinned ? <Pill text="thinned" /> : null}
                  </span>,
                  bytes(row.bytes),
                  <Metrics values={row.metrics} />,
                  <Why row={row} best={run?.best?.step === row.step} order={order} newest={at} />,
                  <span title={hosts ? row.host : ""}>{clock(row.time)}</span>,
                  ...(operator && managed
                    ? [
                        <span class="deeds">
                          {order && pending(order)
                            ? null
                            : deedsFor(row).map((deed) => (
                                <button type="button" class="quiet small" data-deed={deed.verb} key={deed.verb} aria-label={`${deed.text} the checkpoint of step ${row.step}`} onClick={() => setAsked({ row, deed })}>
                                  {deed.text}
                                </button>
                              ))}
                        </span>,
                      ]
                    : []),
                ],
              };
            })}
          />
        ) : null}
        {asked && run ? <Ask row={asked.row} deed={asked.deed} run={run.run} close={() => setAsked(null)} /> : null}
      </div>
    </Panel>
  );
}
