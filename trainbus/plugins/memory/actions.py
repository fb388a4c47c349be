"""What is asked of a training before its memory ends, and when: a pure function of the prediction and of what was asked before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct, field

from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.leaks import duration
from trainbus.plugins.memory.runs import RunView

Verb: TypeAlias = Literal["free_caches", "save", "pause", "stop", "kill"]

CACHES_FIRST = 2.0
"""Caches are freed this many times as early as a save is asked for: when that helps, nothing else is needed."""
MARGIN_SECONDS = 2.0
"""For a command's way to the training, beside the steps that it waits for."""
MARGIN_STEPS = 3.0
SAVE_AGAIN = 3.0
"""A checkpoint this many lead times old is an old one: while memory goes on ending, another is asked for."""


class Incident(Struct):
    """Memory that ends for one training: when each verb was asked for, in nanoseconds since the epoch."""

    asked: dict[str, int] = field(default_factory=dict)


class Ask(Struct, frozen=True):
    """Something to be asked of a training (or, for ``kill``, to be done to it), with its reason."""

    run: str
    verb: Verb
    reason: str


class Danger(Struct, frozen=True):
    """How near the end of a training's memory is: seconds at the earliest (None: no end in sight), and percent in use."""

    seconds: float | None
    percent: float
    why: str


def lead(view: RunView, config: MemoryConfig) -> float:
    """Seconds before the end at which a save must be asked for."""
    steps = MARGIN_STEPS * (view.step_seconds or 0.0)
    return config.safety * view.save_seconds(config.save_seconds) + steps + MARGIN_SECONDS


def decide(view: RunView, danger: Danger, incident: Incident, now: int, config: MemoryConfig) -> Iterator[Ask]:
    """What to ask for now.

    Args:
        view: The training.
        danger: How near the end is.
        incident: What was asked; changed here.
        now: Nanoseconds since the epoch.
        config: The policy.
    """
    before = lead(view, config)
    seconds = 0.0 if danger.percent >= config.act_percent else danger.seconds
    if seconds is None:
        incident.asked.clear()
        return
    why = f"{danger.why}; a save takes {duration(view.save_seconds(config.save_seconds))}"

    def ask(verb: Verb) -> Ask:
        incident.asked[verb] = now
        return Ask(view.run, verb, why)

    if "free_caches" in config.actions and "free_caches" not in incident.asked and seconds <= CACHES_FIRST * before:
        yield ask("free_caches")
    if seconds <= before:
        saved = view.saved_time >= incident.asked["save"] if "save" in incident.asked else False
        if "save" in config.actions and ("save" not in incident.asked or (saved and now - view.saved_time > SAVE_AGAIN * before * 1e9)):
            yield ask("save")
        elif saved or "save" not in config.actions:
            for verb in ("pause", "stop"):
                if verb in config.actions and verb not in incident.asked:
                    yield ask("pause" if verb == "pause" else "stop")
    chosen = config.last_resort and config.last_resort in (view.run, view.name)
    if chosen and danger.percent >= config.last_resort_percent and "kill" not in incident.asked:
        yield ask("kill")


def sentence(ask: Ask, name: str, dry_run: bool) -> str:
    """For the alert."""
    what = {
        "free_caches": "to free its caches",
        "save": "to save a checkpoint",
        "pause": "to pause",
        "stop": "to save and stop",
        "kill": "to end by SIGTERM, then SIGKILL",
    }[ask.verb]
    told = f"Would ask {name} {what} (dry run)" if dry_run else f"Asked {name} {what}"
    return f"{told}: {ask.reason}."
