"""What grows: leaks with the step at which memory ends, memory that evaluations leave behind, disks that fill, GPUs that idle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from trainbus.bus.events import System
from trainbus.plugins.memory.book import Book
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.forecast import EXTRAPOLATE, End, end_of, gpu_limits, limits_of
from trainbus.plugins.memory.levels import Limit, limits
from trainbus.plugins.memory.runs import RunView, members
from trainbus.plugins.memory.trends import Trend

MB = 1e6
SOON_SECONDS = 600.0
"""An end this near is critical: a person has to act, or the plugin."""
SAID_AGAIN = 0.2
"""An open leak is updated when its end has moved by this share of the way that is left,"""
RATE_AGAIN = 0.05
"""or its rate by this share of what was said: the first look at a leak is the least certain one."""
OVER_SHARE = 0.2
"""A leak is over when memory grows at less than this share of what was said, over as many points as it takes to see it."""
OVER_POINTS = 24
CREEP_EVALUATIONS = 4
CREEP_SHARE = 0.01
CREEP_LEAST = 16 << 20
"""Memory creeps when each of the last evaluations left at least this much of the training's memory behind, and about the same."""
IDLE_PERCENT = 60.0
IDLE_STEPS = 15
"""A GPU that is filled to less than this over so many steps has room for a bigger batch."""

LEAK_ADVICE = (
    "Something is kept at each step: losses or outputs that hold their graph (use .item() or .detach()), a list or cache that only grows, "
    "a DataLoader that holds what it read. A save is worth more than a finished run that was killed."
)
CREEP_ADVICE = (
    "Evaluation leaves memory behind: gather predictions in pieces (eval_accumulation_steps), free caches after it, keep no logits."
)
GPU_LEAK_ADVICE = "Tensors are kept on the GPU at each step: accumulate losses as numbers (.item()), not as tensors with their graph."


def judge_run(event: System, view: RunView, group: str, config: MemoryConfig, book: Book) -> End | None:
    """Follow leaks of one training; gives the first end that is predicted."""
    machine = limits_of(limits(event), group, view.pid)
    ends = [_leak(event, view, "process", machine, LEAK_ADVICE, config, book)]
    gpus = [limit for limit in gpu_limits(event) if limit.key in view.series]
    ends += [_leak(event, view, limit.key, [limit], GPU_LEAK_ADVICE, config, book) for limit in gpus]
    _creep(event, view, machine, book)
    return min((end for end in ends if end is not None), key=lambda end: end.step_low, default=None)


def _leak(event: System, view: RunView, what: str, machine: Sequence[Limit], advice: str, config: MemoryConfig, book: Book) -> End | None:
    key, series = f"leak {view.run} {what}", view.series.get(what)
    if series is None:
        return None
    trend, known = series.trend(), book.open(key)
    if trend is None and known is None:
        return None
    if trend is None and known is not None:
        now = series.line(OVER_POINTS)
        if now is None or now.slope > OVER_SHARE * known.peak * MB:
            trend = now
        else:
            book.clear(event, key, f"The memory of {view.name or view.run} grows no more.", value=now.slope / MB, unit="MB a step")
            return None
    end = end_of(view, trend, machine) if trend is not None else None
    if trend is None or end is None or (known is None and end.beyond(view.total_steps, config.horizon_hours * 3_600)):
        return None
    left = max(1.0, end.step - (view.step or 0))
    moved = known is not None and abs(end.step - known.said) > SAID_AGAIN * left
    news = moved or (known is not None and abs(trend.slope / MB - known.rate) > RATE_AGAIN * known.rate)
    soon = end.seconds_low is not None and end.seconds_low <= max(SOON_SECONDS, config.safety * view.save_seconds(config.save_seconds))
    grows = growing(event, view) if what == "process" else f"GPU {what.removeprefix('gpu')}"
    told = book.tell(
        event,
        key,
        "memory_leak" if what == "process" else "gpu_leak",
        "critical" if soon else "warning",
        _sentence(view, trend, end, grows),
        run=view.run,
        step=view.step,
        value=trend.slope / MB,
        news=news,
        advice=advice,
        evidence={**leak_evidence(trend, end), "grows": grows, "peaks": view.peaks},
    )
    if told:
        book.alerts[key].said, book.alerts[key].rate = end.step, trend.slope / MB
    return end


def leak_evidence(trend: Trend, end: End) -> dict[str, object]:
    """The numbers behind a leak."""
    return {
        "unit": "MB a step",
        "mb_per_step": trend.slope / MB,
        "mb_per_step_low": trend.low / MB,
        "mb_per_step_high": trend.high / MB,
        "points": trend.points,
        "steps": trend.span,
        "limit": end.limit,
        "room": end.room,
        "end_step": end.step,
        "end_step_low": end.step_low,
        "end_step_high": end.step_high,
        "end_seconds": end.seconds,
        "end_seconds_low": end.seconds_low,
    }


def growing(event: System, view: RunView) -> str:
    """Which process of a training's tree has grown most since the trend began: its own, or one of its workers, by name."""
    process = next((one for one in event.processes if one.run == view.run), None)
    if process is None:
        return ""
    now = members(process)
    most = max(now, key=lambda pid: now[pid] - view.members.get(pid, now[pid]))
    worker = next((one for one in process.workers if one.pid == most), None)
    name = process.name if worker is None else worker.role or worker.name
    return f"{name} (process {most})"


def _sentence(view: RunView, trend: Trend, end: End, grows: str) -> str:
    when = f"at about step {end.step:.0f} ({end.step_low:.0f} to {end.step_high:.0f})"
    if end.seconds is not None:
        when += f", in about {duration(end.seconds)}"
    return f"The memory of {view.name or view.run} grows by {trend.slope / MB:.2f} MB a step in {grows}: the {end.what} ends {when}."


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _creep(event: System, view: RunView, machine: Sequence[Limit], book: Book) -> None:
    """What evaluations leave behind: a staircase that no slope between two of them shows."""
    key = f"creep {view.run}"
    if len(view.levels) <= CREEP_EVALUATIONS or book.open(f"leak {view.run} process") is not None:
        return
    last = view.levels[-CREEP_EVALUATIONS - 1 :]
    rises = [after - before for before, after in pairwise(last)]
    least = max(CREEP_LEAST, CREEP_SHARE * last[0])
    rise = median(rises)
    room = min((limit.room for limit in machine), default=None)
    far = room is not None and room / max(rise, 1.0) > EXTRAPOLATE * CREEP_EVALUATIONS
    if min(rises) >= max(least, max(rises) / 3) and not far:
        left = None if room is None else int(max(0.0, room - view.worst_peak()) / rise)
        ends = "" if left is None else f"; there is room for about {left} more"
        message = f"Each evaluation of {view.name or view.run} leaves {rise / MB:.0f} MB behind{ends}."
        evidence = {"unit": "MB an evaluation", "evaluations_left": left, "levels": view.levels}
        book.tell(
            event,
            key,
            "memory_creep",
            "critical" if left is not None and left <= 1 else "warning",
            message,
            run=view.run,
            step=view.step,
            value=rise / MB,
            evidence=evidence,
            advice=CREEP_ADVICE,
        )
    elif rise < least / 2:
        book.clear(event, key, "Evaluations leave no more memory behind.", value=rise / MB, unit="MB an evaluation")


def judge_idle_gpu(event: System, view: RunView, book: Book) -> None:
    """Advice when the GPUs of a training have room: one, after enough steps."""
    key, percent = f"idle {view.run}", view.gpu_percent
    if percent is None:
        return
    if view.gpu_low >= IDLE_STEPS:
        message = f"{view.name or view.run} has filled its GPU to {percent:.0f} % at most over {view.gpu_low} steps."
        advice = "A bigger batch, longer sequences or less gradient checkpointing would use it."
        book.tell(event, key, "gpu_underused", "info", message, run=view.run, step=view.step, value=percent, advice=advice)
    elif percent >= IDLE_PERCENT:
        book.clear(event, key, "Its GPU memory is in use.", value=percent)
