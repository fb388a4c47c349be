"""After a death: whether the kernel killed a training for want of memory, as far as counters, the kernel's log and the exit tell."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from trainbus.bus.events import Alert, Process, RunEnded, Severity, System
from trainbus.machine.kernel_log import parse_kill
from trainbus.plugins.memory.book import PLUGIN

Verdict: TypeAlias = Literal["kernel", "python", "gpu", "worker", "other", "unknown"]

LAST_SECONDS = 60.0
"""Of memory before a death, for its alert."""
MAX_POINTS = 120
KILLED_EXIT_CODE = 128 + signal.SIGKILL

WORDS: dict[Verdict, str] = {
    "kernel": "The kernel killed it for want of memory",
    "python": "It asked for memory that it was not given",
    "gpu": "It asked for GPU memory that was not there",
    "worker": "One of its DataLoader workers was killed, as the kernel does for want of memory",
    "other": "The kernel did not kill it for want of memory",
    "unknown": "Whether the kernel killed it for want of memory can't be told",
}
REASONS: tuple[tuple[Verdict, re.Pattern[str]], ...] = (
    ("gpu", re.compile(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|HIP out of memory", re.IGNORECASE)),
    ("worker", re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: Killed")),
    ("python", re.compile(r"\bMemoryError\b|can't allocate memory|Cannot allocate memory|std::bad_alloc")),
)
"""What Python, PyTorch and C++ say when memory is refused."""


class Sighting(Struct):
    """A training at the last look at which it lived: the counters of kills then, its processes and their size."""

    pid: int
    name: str = ""
    time: int = 0
    host_kills: int | None = None
    group_kills: dict[str, int] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)
    rss: int = 0
    kernel: list[str] = field(default_factory=list)


class Death(Struct):
    """What is known of one; kept so that the run's end event can add to it."""

    id: str
    verdict: Verdict
    proof: list[str]
    time: int
    pid: int
    evidence: dict[str, Any] = field(default_factory=dict)


def sight(event: System, process: Process, before: Sighting | None) -> Sighting:
    """Remember a training that lives."""
    kernel = [] if before is None or before.pid != process.pid else before.kernel
    return Sighting(
        pid=process.pid,
        name=process.name,
        time=event.time,
        host_kills=event.oom_kills,
        group_kills={group.path: group.oom_kills for group in event.groups if group.oom_kills is not None},
        pids=[process.pid, *(worker.pid for worker in process.workers)],
        rss=process.rss,
        kernel=[*kernel, *event.kernel][-10:],
    )


def inquest(event: System, run: str, seen: Sighting) -> Death:
    """Why the process of a training is gone, by the look that no longer found it."""
    proof: list[str] = []
    verdict: Verdict = "unknown"
    risen = []
    for group in event.groups:
        before = seen.group_kills.get(group.path)
        if before is not None and group.oom_kills is not None:
            verdict = "other"
            if group.oom_kills > before:
                risen.append(f"oom_kill of {group.path} rose from {before} to {group.oom_kills}")
    if seen.host_kills is not None and event.oom_kills is not None:
        verdict = "other"
        if event.oom_kills > seen.host_kills:
            risen.append(f"oom_kill of {event.host} rose from {seen.host_kills} to {event.oom_kills}")
    victims = [kill for line in (*seen.kernel, *event.kernel) if (kill := parse_kill(line)) is not None]
    own = next((kill for kill in victims if kill.pid in seen.pids), None)
    if own is not None:
        limit = "its control group's limit" if own.group else "the host's memory"
        proof.append(f"the kernel's log names process {own.pid} ({own.name}): {limit}")
        verdict = "kernel" if own.pid == seen.pid else "worker"
    # A counter tells that somebody was killed; where the log names the victims and none is ours, it was somebody else.
    elif risen and not victims:
        verdict = "kernel"
    proof += risen
    if not proof:
        proof.append("no counter of kills rose" if verdict == "other" else "the kernel counts no kills here, and its log can't be read")
    return Death(f"memory_death:{event.host}:{run}:{event.time}", verdict, proof, event.time, seen.pid)


def ended(event: RunEnded, known: Death | None, host: str) -> Death | None:
    """What the run's own end adds: the signal, the error. None when there is nothing to say of memory."""
    text = "\n".join([event.reason, *event.last_lines])
    said = next((verdict for verdict, pattern in REASONS if pattern.search(text)), None)
    killed = event.signal == signal.SIGKILL or event.exit_code in (KILLED_EXIT_CODE, -signal.SIGKILL)
    if event.outcome not in ("failed", "lost") or (said is None and known is None):
        return None
    death = known or Death(f"memory_death:{host}:{event.run}:{event.time}", "unknown", [], event.time, 0)
    if said is not None and death.verdict != "kernel":
        death.verdict = said
        death.proof = [
            *death.proof,
            f"its error: {next(line for line in text.splitlines() if dict(REASONS)[said].search(line)).strip()[:300]}",
        ]
    if killed:
        death.proof = [*death.proof, "it ended by SIGKILL"]
    elif event.signal is not None:
        death.proof = [*death.proof, f"it ended by signal {event.signal}"]
    return death


def last_minute(history: Iterable[System], run: str, host: str, until: int) -> list[dict[str, float | None]]:
    """The memory of a training and of its machine in the seconds before ``until``, thinned out to `MAX_POINTS`."""
    points: list[dict[str, float | None]] = []
    for event in history:
        if event.host != host or not 0 <= until - event.time <= LAST_SECONDS * 1e9:
            continue
        process = next((one for one in event.processes if one.run == run), None)
        group = next((one for one in event.groups if process is not None and process.group.startswith(one.path)), None)
        points.append(
            {
                "seconds": (event.time - until) / 1e9,
                "rss": None if process is None else process.rss,
                "anon": None if process is None else process.anon,
                "available": None if event.memory is None else event.memory.available,
                "group_used": None if group is None else group.used,
                "group_limit": None if group is None else group.limit,
                "pressure": None if event.pressure is None else event.pressure.full,
            }
        )
    return points[:: -(-len(points) // MAX_POINTS)] if points else []


def death_alert(run: str, death: Death, *, step: int | None, name: str, host: str, time: int, updated: bool, incident: str = "") -> Alert:
    """The death as an alert: critical when it was want of memory.

    ``incident`` is the id of the alert that has told of this death already (`trainbus exec` tells of every crash): one incident wants
    one alert, so this one is information beside it.
    """
    severity: Severity = "critical" if death.verdict in ("kernel", "python", "gpu", "worker") and not incident else "info"
    advice = "" if severity == "info" else "Resume from the last checkpoint with a smaller batch, fewer workers, or more memory."
    joined = {"incident": incident} if incident else {}
    return Alert(
        run=run,
        time=time,
        id=death.id,
        rule="memory_death",
        category="memory",
        severity=severity,
        state="updated" if updated else "raised",
        step=step,
        message=f"The process of {name or run} is gone. {WORDS[death.verdict]}: {'; '.join(death.proof)}.",
        evidence={"host": host, "verdict": death.verdict, "proof": death.proof, "pid": death.pid, **joined, **death.evidence},
        advice=advice,
        plugin=PLUGIN,
    )
