"""One line of text for each event: time, kind, run, and what a person wants to know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.text import Text

from trainbus.bus import events
from trainbus.cli.output import clock, duration, number, size, state

KIND_STYLES = {
    "run_started": "bold green", "run_ended": "bold", "phase": "magenta", "step": "blue", "eval": "bold blue", "sample": "cyan",
    "checkpoint": "yellow", "alert": "bold red", "command": "bold yellow", "command_result": "yellow", "gap": "bold red",
    "heartbeat": "dim",
}  # fmt: skip
KIND_WIDTH = max(map(len, events.BY_KIND))
EXCERPT = 60
"""Characters of a prompt or an answer that fit into a line."""


def line(event: events.AnyEvent) -> Text:
    """The event as one line; text from outside can't break it or colour it."""
    details = DETAILS.get(type(event), _other)(event)
    parts = [
        Text(clock(event.time), style="dim"),
        Text(event.kind.ljust(KIND_WIDTH), style=KIND_STYLES.get(event.kind, "")),
        Text(event.run, style="dim"),
    ]
    return Text("  ").join(_printable(part) for part in [*parts, *details] if part)


def _printable(part: str | Text) -> Text:
    text = part if isinstance(part, Text) else Text(part)
    return Text("".join(character if character.isprintable() else " " for character in text.plain), style=text.style)


def _excerpt(text: str) -> str:
    return f"{text[: EXCERPT - 1]}…" if len(text) > EXCERPT else text


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {number(value)}" for name, value in metrics.items())


def _pairs(**facts: Any) -> str:
    return "  ".join(f"{name} {value!s}" for name, value in facts.items() if value not in (None, "", 0, {}, []))


def _run_started(event: events.RunStarted) -> list[str | Text]:
    resumed = f"resumed at step {event.resumed_step}" if event.resumed_from else ""
    return [
        event.name,
        resumed,
        _pairs(host=event.host, pid=event.pid),
        f"{event.world_size} ranks" if event.world_size > 1 else "",
    ]


def _run_ended(event: events.RunEnded) -> list[str | Text]:
    return [state(event.outcome), _pairs(step=event.step, exit_code=event.exit_code, signal=event.signal), event.reason]


def _phase(event: events.Phase) -> list[str | Text]:
    done = f"{event.progress:.0%}" if event.progress is not None and event.state == "progress" else ""
    took = f"in {duration(event.duration)}" if event.duration is not None else ""
    return [event.name, event.state, done, took, event.detail]


def _step(event: events.Step) -> list[str | Text]:
    of = f"/{event.total_steps}" if event.total_steps else ""
    return [f"{event.step}{of}", _metrics(event.metrics)]


def _eval(event: events.Eval) -> list[str | Text]:
    took = f"in {duration(event.duration)}" if event.duration is not None else ""
    return [f"{event.step}", event.dataset, _metrics(event.metrics), took, _pairs(of=event.checkpoint)]


def _sample(event: events.Sample) -> list[str | Text]:
    verdict = Text("") if event.correct is None else Text("right", style="green") if event.correct else Text("wrong", style="red")
    answer = "" if event.answer is None else f"→ {_excerpt(event.answer)}"
    return [f"{event.step}", verdict, _excerpt(event.prompt), answer]


def _checkpoint(event: events.Checkpoint) -> list[str | Text]:
    weight = size(event.bytes) if event.bytes is not None else ""
    return [f"{event.step}", state(event.state), event.path, weight, _metrics(event.metrics), event.reason]


def _job(event: events.Job) -> list[str | Text]:
    return [event.file, state(event.state), _pairs(attempts=event.attempts), event.reason]


def _system(event: events.System) -> list[str | Text]:
    memory = f"memory {size(event.memory.used)} of {size(event.memory.total)}" if event.memory else ""
    gpus = "  ".join(f"gpu{gpu.index} {size(gpu.memory_used)} of {size(gpu.memory_total)}" for gpu in event.gpus)
    return [event.host, memory, gpus, state(event.risk), event.reason]


def _metric(event: events.Metric) -> list[str | Text]:
    return [event.name, f"{number(event.value)} {event.unit}".strip(), _pairs(step=event.step)]


def _alert(event: events.Alert) -> list[str | Text]:
    shown = state(event.severity if event.state != "cleared" else "cleared")
    return [shown, event.rule, _pairs(step=event.step), event.message, Text(event.advice, style="dim")]


def _command(event: events.Command) -> list[str | Text]:
    return [event.verb, _pairs(**event.arguments), _pairs(plugin=event.plugin, by=event.requested_by), event.reason]


def _command_result(event: events.CommandResult) -> list[str | Text]:
    return [event.verb, state(event.state), event.reason, _pairs(**event.result)]


def _plugin(event: events.Plugin) -> list[str | Text]:
    return [event.name, state(event.state), _pairs(lag=event.lag, restarts=event.restarts), event.error]


def _retention(event: events.Retention) -> list[str | Text]:
    counts = Counter(fate.state for fate in event.checkpoints)
    disks = [f"{disk.path} {size(disk.free)} free" for disk in event.disks]
    newest = max(event.checkpoints, key=lambda fate: fate.step, default=None)
    why = f"step {newest.step} {newest.state}: {'; '.join(newest.reasons)}" if newest else ""
    return [
        event.host,
        "dry run" if event.dry_run else "",
        ", ".join(f"{number(count)} {fate}" for fate, count in counts.items()),
        *disks,
        why,
    ]


def _gap(event: events.Gap) -> list[str | Text]:
    lost = event.last_seq - event.first_seq + 1
    return [f"{number(lost)} events of {event.missing_source} are missing", event.reason]


def _heartbeat(event: events.Heartbeat) -> list[str | Text]:
    return [_pairs(step=event.step), size(event.rss) if event.rss else "", event.state]


def _other(event: Any) -> list[str | Text]:
    return [_pairs(**getattr(event, "fields", {}))]


DETAILS: dict[type, Callable[[Any], list[str | Text]]] = {
    events.RunStarted: _run_started, events.RunEnded: _run_ended, events.Phase: _phase, events.Step: _step, events.Eval: _eval,
    events.Sample: _sample, events.Checkpoint: _checkpoint, events.Job: _job, events.System: _system, events.Metric: _metric,
    events.Alert: _alert, events.Command: _command, events.CommandResult: _command_result, events.Plugin: _plugin, events.Gap: _gap,
    events.Heartbeat: _heartbeat, events.Retention: _retention,
}  # fmt: skip
