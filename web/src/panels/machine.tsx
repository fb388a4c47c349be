// Memory, pressure, GPUs and process trees of each machine.

import { now, state } from "../model";
import { bytes, duration, number, percent } from "../format";
import { useValue } from "../observable";
import { Meter, Nothing, Panel, Pill, TONES, Table } from "../panel";
import type { Gpu, System } from "../types";

// A machine that reports each few seconds and is silent for so long is no longer known.
const OLD_AFTER = 30;

const meter = (name: string, used: number | null | undefined, total: number | null | undefined, levels?: [number, number]) => {
  const share = used !== null && used !== undefined && total ? used / total : null;
  return <Meter key={name} name={name} share={share} levels={levels} text={share === null ? "unknown" : `${bytes(used)} of ${bytes(total)} · ${percent(share)}`} />;
};

function GpuMeter({ gpu }: { gpu: Gpu }) {
  const facts = [
    gpu.utilization === null ? "" : `${number(gpu.utilization)} % busy`,
    gpu.temperature === null ? "" : `${number(gpu.temperature)} °C`,
    gpu.power === null ? "" : `${number(gpu.power, 3)} W${gpu.power_limit ? ` of ${number(gpu.power_limit, 3)} W` : ""}`,
  ].filter(Boolean);
  return (
    <>
      {meter(`GPU ${gpu.index} ${gpu.name}`, gpu.memory_used, gpu.memory_total, [0.9, 0.97])}
      {facts.length ? <p class="facts">{facts.join(" · ")}</p> : null}
    </>
  );
}

function Machine({ system }: { system: System }) {
  const memory = system.memory;
  const used = memory ? (memory.available === null || memory.available === undefined ? memory.used : memory.total - memory.available) : null;
  const facts: string[] = [];
  if (system.cpu_percent !== null) facts.push(`CPU ${number(system.cpu_percent, 3)} %`);
  if (system.pressure?.some !== undefined && system.pressure?.some !== null) facts.push(`memory pressure ${number(system.pressure.some, 3)} %`);
  if (system.oom_kills) facts.push(`${number(system.oom_kills)} killed for want of memory since the start`);
  facts.push(...system.disks.map((disk) => `${disk.path}: ${bytes(disk.free ?? 0)} free`));
  facts.push(...Object.entries(system.unknown).map(([name, why]) => `${name} unknown: ${why}`));
  return (
    <div class="machine">
      <h3>
        {system.host || "this machine"}
        {system.risk ? <Pill text={`${system.risk} risk`} tone={TONES[system.risk]} /> : null}
      </h3>
      {system.reason ? <p class="facts">{system.reason}</p> : null}
      {memory ? meter("RAM", used, memory.total) : null}
      {system.swap?.total ? meter("Swap", system.swap.used ?? 0, system.swap.total, [0.25, 0.5]) : null}
      {system.gpus.map((gpu) => (
        <GpuMeter gpu={gpu} key={gpu.index} />
      ))}
      {facts.length ? <p class="facts">{facts.join(" · ")}</p> : null}
      {system.processes.length ? (
        <Table
          label={`Processes on ${system.host}`}
          columns={[["Process tree", "grow"], ["Processes", "num"], ["Resident", "num"]]}
          rows={system.processes.map((process) => ({
            key: process.pid,
            cells: [<span title={process.run || ""}>{process.role || process.name || `process ${process.pid}`}</span>, number(process.processes ?? 1), bytes(process.rss ?? 0)],
          }))}
        />
      ) : null}
    </div>
  );
}

export function MemoryPanel() {
  const systems = useValue(state, (value) => value?.systems) ?? [];
  const told = useValue(state, (value) => value?.time ?? 0);
  useValue(now);
  const ages = systems.map((system) => Math.max(0, (told - system.time) / 1e9));
  const oldest = ages.length ? Math.max(...ages) : 0;
  return (
    <Panel id="memory" title="Memory" span="narrow" stale={oldest > OLD_AFTER ? `no reading for ${duration(oldest)}` : ""}>
      <div id="memory" class={`scroll high ${oldest > OLD_AFTER ? "old" : ""}`} tabIndex={0} role="region" aria-label="Memory">
        {systems.length ? systems.map((system) => <Machine system={system} key={system.host} />) : <Nothing>No machine reports its memory. The memory plugin does.</Nothing>}
      </div>
    </Panel>
  );
}
