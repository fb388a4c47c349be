"""What a row of the matrix is, and what one round of it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tests.faults.matrix.stage import Stage

Act = Callable[["Stage"], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. ``act`` starts a system, breaks it and mends it; the judgement behind it is the same for all.

    Args:
        name: For ``--rows``.
        title: What breaks, for people.
        clauses: The promises that it tests, as ``D2 D3``.
        gaps: Events may be missing where a gap event names them; otherwise none may.
        note: What a reader of the table must know about its figures.
        seconds: A round that takes longer hangs.
    """

    name: str
    title: str
    clauses: str
    act: Act
    gaps: bool = False
    note: str = ""
    seconds: float = 300.0


ROWS: dict[str, Row] = {}
"""All rows, in the order of the table; the modules beside this one fill it."""


def row(name: str, title: str, clauses: str, *, gaps: bool = False, note: str = "", seconds: float = 300.0) -> Callable[[Act], Act]:
    """Register a function as a row."""

    def register(act: Act) -> Act:
        ROWS[name] = Row(name=name, title=title, clauses=clauses, act=act, gaps=gaps, note=note, seconds=seconds)
        return act

    return register


class Round(msgspec.Struct, kw_only=True):
    """One round. Times are seconds; ``recovery`` is None where nothing had to recover.

    ``longest`` is the longest call of publish(), ``own`` the longest one that the kernel did not interrupt, ``late`` how many of these took
    more than a millisecond, ``waited`` how many of those waited for a lock, the interpreter or a page (None: not looked at); ``control``
    and so on are the same of a process that did the same work at the same time without publishing.
    """

    row: str
    seed: int
    number: int
    version: str
    problem: str = ""
    skipped: str = ""
    published: int = 0
    journaled: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    wrong: int = 0
    explained: int = 0
    longest: float = 0.0
    own: float = 0.0
    late: int = 0
    waited: int | None = None
    control: float = 0.0
    control_own: float = 0.0
    control_late: int = 0
    recovery: float | None = None
    seconds: float = 0.0
    load: float = 0.0
