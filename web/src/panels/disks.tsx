// What checkpoints and their trash take of a disk, what must stay free, and when it is full.

import { now } from "../model";
import { bytes, duration, percent } from "../format";
import { useValue } from "../observable";
import type { DiskRow } from "../types";

const SOON = 86_400;

function forecast(disk: DiskRow, at: number): [text: string, bad: boolean] {
  if (disk.free < disk.floor) return [`${bytes(disk.floor - disk.free)} below the floor`, true];
  if (disk.full_in === null) return ["no forecast yet", false];
  const left = Math.max(0, disk.full_in - Math.max(0, at * 1e6 - disk.time) / 1e9);
  return left > 0 ? [`full in about ${duration(left)} at the present rate`, left < SOON] : ["full by now at the rate of the last reading", true];
}

export function DiskUse({ disk }: { disk: DiskRow }) {
  const [text, bad] = forecast(disk, useValue(now));
  const share = (size: number) => `${disk.total ? Math.max(0, Math.min(100, (size / disk.total) * 100)) : 0}%`;
  const other = Math.max(0, disk.total - disk.free - disk.checkpoints - disk.trash);
  const parts: [name: string, text: string, size: number][] = [
    ["other", "other files", other],
    ["kept", "checkpoints", disk.checkpoints],
    ["trash", "trash", disk.trash],
  ];
  const used = disk.total ? (disk.total - disk.free) / disk.total : null;
  return (
    <div class="disk">
      <div class="line">
        <span class="path">
          {disk.path} <span class="meta">{disk.host}</span>
        </span>
        <span class={bad ? "bad" : "label"}>
          {bad ? "⚠ " : ""}
          {text}
        </span>
      </div>
      <div class="stack" role="meter" aria-label={`Disk ${disk.path}`} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round((used ?? 0) * 100)} aria-valuetext={`${percent(used)} used, ${bytes(disk.free)} free`}>
        {parts.map(([name, , size]) => (
          <div class={name} key={name} style={{ width: share(size) }} />
        ))}
        {disk.floor ? <div class="floor" style={{ right: share(disk.floor) }} /> : null}
      </div>
      <ul class="legend">
        {parts.map(([name, told, size]) => (
          <li key={name}>
            <span class={`patch ${name}`} aria-hidden="true" /> {told} {bytes(size)}
          </li>
        ))}
        <li>
          <span class="patch" aria-hidden="true" /> free {bytes(disk.free)} of {bytes(disk.total)}
        </li>
        {disk.floor ? <li>┃ floor: {bytes(disk.floor)} stay free</li> : null}
      </ul>
    </div>
  );
}
