"""The memory of each watched machine in a terminal, from the newest `system` event of each and the alerts that are open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from trainbus.bus.client import Client
from trainbus.bus.events import Alert, Gpu, Memory, RunStarted, System
from trainbus.cli.output import age, size, state, table

LOOK_BACK = 2_000
ALERTS_BACK = 200_000
"""Offsets searched for the newest looks (minutes of a busy run) and for open alerts (hours of one; there are few alerts)."""
DEATH = "memory_death"
MAX_DEATHS = 3
"""Trainings shown that died: the newest."""
STYLES = {"low": "green", "medium": "yellow", "high": "bold red"}


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """The newest look at each machine, the alerts of the memory plugin that are open, and the trainings that died, the newest last."""

    looks: list[System]
    alerts: list[Alert]
    deaths: list[Alert]


def newest(client: Client, head: int) -> Watched:
    """What the end of the journal says; empty where no memory plugin runs. The death of a run that has begun again is over."""
    looks, alerts, begun = {}, {}, {}
    for event in client.events(kinds=("system",), after=max(-1, head - LOOK_BACK), upto=head):
        if isinstance(event, System):
            looks[event.host] = event
    for event in client.events(kinds=("alert", "run_started"), after=max(-1, head - ALERTS_BACK), upto=head):
        if isinstance(event, RunStarted):
            begun[event.run] = event.time
        elif isinstance(event, Alert) and event.plugin == "memory":
            alerts[event.id] = event
    opened = [alert for alert in alerts.values() if alert.state != "cleared"]
    deaths = {alert.run: alert for alert in opened if alert.rule == DEATH and begun.get(alert.run, 0) < alert.time}
    return Watched(
        looks=list(looks.values()),
        alerts=[alert for alert in opened if alert.rule != DEATH],
        deaths=sorted(deaths.values(), key=lambda alert: alert.time)[-MAX_DEATHS:],
    )


def _rows(watched: Watched) -> Iterable[RenderableType]:
    """One line for each machine, training and GPU, then the open alerts; nothing where nothing is watched."""
    if not watched.looks:
        return
    made = table("memory", "in use", "of", "free", "", right=("in use", "of", "free"))
    for look in watched.looks:
        _machine(made, look)
    yield made
    for alert in watched.alerts:
        yield Text.assemble(state(alert.severity), " ", alert.message)
    for death in watched.deaths:
        yield Text.assemble(state(death.severity), " ", death.message, Text(f"  {age(death.time)}", style="dim"))


def memory_document(watched: Watched) -> dict[str, Any]:
    """For programs."""
    return {"hosts": watched.looks, "alerts": watched.alerts, "deaths": watched.deaths}


def panel(watched: Watched) -> RenderableType | None:
    """All of it; None when there is nothing."""
    rows = list(_rows(watched))
    return Group(*rows) if rows else None


def _machine(made: Any, look: System) -> None:
    risk = Text(f"risk {look.risk or 'unknown'}: {look.reason}", style=STYLES.get(look.risk, "dim"))
    memory, swap = look.memory, look.swap
    made.add_row(look.host, *_sizes(memory), Text.assemble(risk, Text(f"  {age(look.time)}", style="dim")))
    if swap is not None and swap.total:
        rate = f"reads {size(swap.in_rate)}/s, writes {size(swap.out_rate)}/s" if swap.in_rate is not None else ""
        made.add_row("  swap", size(swap.used), size(swap.total), size(swap.total - swap.used), rate)
    for group in look.groups:
        free = None if group.limit is None else group.limit - group.used
        kills = f"{group.oom_kills} killed for want of memory" if group.oom_kills else ""
        made.add_row(f"  group {group.path}", size(group.used), size(group.limit), size(free), kills)
    for process in look.processes:
        workers = f", {process.processes - 1} more processes" if process.processes > 1 else ""
        made.add_row(f"  {process.run or process.name}", size(process.rss), "", "", f"process {process.pid}{workers}")
    for gpu in look.gpus:
        name = f"  GPU {gpu.index}" + ("" if gpu.slice is None else f".{gpu.slice}")
        free = None if gpu.memory_total is None or gpu.memory_used is None else gpu.memory_total - gpu.memory_used
        made.add_row(name, size(gpu.memory_used), size(gpu.memory_total), size(free), _gpu(gpu))
    for disk in look.disks:
        made.add_row(f"  {disk.path}", size(disk.total - disk.free), size(disk.total), size(disk.free), "disk")


def _sizes(memory: Memory | None) -> tuple[str, str, str]:
    if memory is None:
        return size(None), size(None), size(None)
    return size(memory.used), size(memory.total), size(memory.available)


def _gpu(gpu: Gpu) -> str:
    told = [gpu.name]
    if gpu.utilization is not None:
        told.append(f"{gpu.utilization:.0f} %")
    if gpu.temperature is not None:
        told.append(f"{gpu.temperature:.0f} °C")
    if gpu.power is not None:
        told.append(f"{gpu.power:.0f} W")
    return ", ".join(filter(None, [*told, *(gpu.throttling or [])]))
