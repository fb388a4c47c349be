"""Every error that trainbus raises at a person: one root, few leaves.

An error carries what went wrong (``problem``), what to do next (``hint``) and the facts as
attributes, so that the command line, ``--json`` and tests read the same thing.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TrainbusError(Exception):
    """Root of all errors that a person can cause or mend.

    Args:
        problem: One sentence: what was found and where.
        hint: What to do next.
        facts: What a program would want to know: ``file``, ``key``, ``line``, ``found``, ``allowed``.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class ConfigError(TrainbusError):
    """A setting is unknown, of the wrong type or out of range."""

    code = "config"
    exit_code = 2


class UnreachableError(TrainbusError):
    """No broker answers: none runs, or it can't be reached from here."""

    code = "unreachable"
    exit_code = 3


class RefusedError(TrainbusError):
    """The broker understood a request and refused it (role, conflict, unknown run, ...)."""

    code = "refused"
    exit_code = 4


class JournalError(TrainbusError):
    """The journal can't be opened, read or written."""

    code = "journal"
    exit_code = 5


class SpoolError(TrainbusError):
    """A spool can't be created, read or drained."""

    code = "spool"
    exit_code = 5


class PluginError(TrainbusError):
    """A plugin can't be found, loaded or validated."""

    code = "plugin"
    exit_code = 6


class DataError(TrainbusError):
    """A training or evaluation file is malformed; ``facts`` names file and line."""

    code = "data"
    exit_code = 7


class ModelError(TrainbusError):
    """A model, tokenizer or checkpoint can't be loaded."""

    code = "model"
    exit_code = 8


class ProtocolError(TrainbusError):
    """The other side speaks another protocol version, or bytes that are none."""

    code = "protocol"
    exit_code = 9
