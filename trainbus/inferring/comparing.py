"""Two models on the same questions: what each said, and whether one is better or it only looks so. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from trainbus.judging.statistics import SIGNIFICANT, mcnemar

Scorer = Callable[[str, str], bool | None]


class Said(Struct, frozen=True, kw_only=True):
    """One answer. ``right`` is None where nothing is known of what is right."""

    answer: str
    right: bool | None = None
    finish_reason: str = ""
    completion_tokens: int | None = None
    seconds: float = 0.0


class Row(Struct, frozen=True, kw_only=True):
    """One question and what each model said, in the order of the models."""

    id: str
    prompt: str
    expected: str | None
    said: list[Said]

    @property
    def same(self) -> bool:
        """Whether all said the same."""
        return len({said.answer.strip() for said in self.said}) == 1


class Verdict(Struct, frozen=True, kw_only=True):
    """What comes out.

    Args:
        questions: How many were asked; of ``judged`` it is known what is right.
        right: Right answers of each model.
        same: Questions to which all said the same.
        gained: Questions that the second model answers rightly and the first one wrongly; ``lost`` the other way round.
        p_value: How often chance alone splits these as unevenly (exact McNemar test); None for one model, or where nothing was judged.
    """

    questions: int
    judged: int
    right: list[int]
    same: int
    gained: int = 0
    lost: int = 0
    p_value: float | None = None

    @property
    def noise(self) -> bool | None:
        """Whether the difference may well be chance."""
        return None if self.p_value is None else self.p_value >= SIGNIFICANT


def verdict(rows: Sequence[Row]) -> Verdict:
    """Count."""
    judged = [row for row in rows if all(said.right is not None for said in row.said)]
    models = len(rows[0].said) if rows else 0
    told = {"questions": len(rows), "judged": len(judged), "same": sum(row.same for row in rows)}
    right = [sum(bool(row.said[place].right) for row in judged) for place in range(models)]
    if models != 2 or not judged:
        return Verdict(**told, right=right)
    gained = sum(bool(row.said[1].right and not row.said[0].right) for row in judged)
    lost = sum(bool(row.said[0].right and not row.said[1].right) for row in judged)
    return Verdict(**told, right=right, gained=gained, lost=lost, p_value=mcnemar(gained, lost))
