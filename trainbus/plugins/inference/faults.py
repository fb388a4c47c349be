"""What can go wrong with a server, and what each kind means for the checkpoint that is examined."""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """What kind of failure a request met, which decides what is done about it."""

    AWAY = "away"
    """No connection: no fault of the checkpoint. It waits, however long it takes."""
    TROUBLE = "trouble"
    """The connection broke, the answer did not come in time, or the server says that it failed or is busy: try again."""
    WRONG = "wrong"
    """Something answers, and not as it should: try again, the server may be mended."""
    QUESTION = "question"
    """The server understood and refused this one question, such as one that is too long for the model."""
    REFUSED = "refused"
    """The server understood and refused the checkpoint: trying again changes nothing."""


class AskError(Exception):
    """A request got no answer. ``problem`` is a sentence for a person, ``status`` the server's HTTP status or 0."""

    def __init__(self, fault: Fault, problem: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(problem)
        self.fault = fault
        self.problem = problem
        self.status = status
        self.reason = reason
