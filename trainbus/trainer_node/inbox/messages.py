"""What daemon and worker say to each other: one JSON object a line, on the worker's standard input and output."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from trainbus.bus.events import CommandResult
from trainbus.trainer_node.config import Summary, TrainerConfig
from trainbus.trainer_node.part import Part


class Order(Struct, kw_only=True):
    """The first line that the worker reads; each line after it is a `Command` for the run. It ends, with a checkpoint, when its standard
    input is closed.

    ``daemon`` is the process id of who sends it. ``announce``: say on the bus that a process begins, because this one does not simply
    go on where the one before it has ended.
    """

    config: TrainerConfig
    part: Part
    lock: str
    daemon: int
    announce: bool


class Phase(Struct, tag="phase"):
    """A phase begins; ``train`` also when a phase within it is over."""

    name: str


class Progress(Struct, tag="progress"):
    """How far the phase is, 0 to 1."""

    fraction: float


class Step(Struct, tag="step"):
    """An optimizer step is done; at most a few a second are told."""

    step: int
    total: int
    loss: float


class Note(Struct, tag="note"):
    """Something that a person should know."""

    text: str


class Answer(Struct, tag="answer", kw_only=True):
    """What became of a command that the daemon has passed on; the worker has told the bus already."""

    result: CommandResult


class Done(Struct, tag="done"):
    """The job has come to an end of its own."""

    summary: Summary


class Refused(Struct, tag="refused"):
    """The job is impossible. ``kind`` is the error's class; ``trained``: it had taken a step."""

    kind: str
    problem: str
    hint: str
    trained: bool


Message: TypeAlias = Phase | Progress | Step | Note | Answer | Done | Refused
