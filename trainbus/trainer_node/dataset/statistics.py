"""How long examples are in tokens, what of them is learned, and what to set: known before a training, not after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from trainbus.errors import DataError
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.dataset.store import TokenDataset

ROUND_TOKENS = 64
"""Lengths that are advised are multiples of this: what accelerators like."""
LEAST_MASKED, MOST_MASKED = 0.30, 0.85
"""Shares of tokens without loss that are usual for conversations: the prompts, and what the chat template puts around turns."""
PLAIN_TEXT = "text"
"""Name of the format whose tokens are all learned."""


class Lengths(Struct, frozen=True, kw_only=True):
    """Tokens of all examples before they are cut. Percentiles are by nearest rank.

    ``over`` are longer than ``max_length`` and will be cut; ``unlearnable`` have no token left to learn from then, and are left out.
    ``learned`` counts tokens with loss, and ``share`` is their share, both of what is trained on. ``suggested`` cuts nothing.
    """

    examples: int
    total: int
    mean: float
    p50: int
    p95: int
    p99: int
    longest: int
    max_length: int
    over: int
    unlearnable: int
    learned: int
    share: float
    suggested: int
    advice: list[str]


def lengths(dataset: TokenDataset, max_length: int, *, row_format: str = "") -> Lengths:
    """Figures of a tokenised file.

    Args:
        max_length: What it was cut at.
        row_format: Name of its format.
    """
    ordered = np.sort(dataset.full_lengths)
    report = dataset.stats()
    p50, p95, p99, longest = (percentile(ordered, percent) for percent in (50, 95, 99, 100))
    share = report.learned / report.tokens if report.tokens else 0.0
    return Lengths(
        examples=len(ordered), total=int(np.sum(ordered)), mean=float(np.mean(ordered)), p50=p50, p95=p95, p99=p99, longest=longest,
        max_length=max_length, over=report.truncated, unlearnable=report.dropped, learned=report.learned, share=share,
        suggested=_rounded(longest), advice=_advice(dataset, max_length, p99, share, row_format),
    )  # fmt: skip


def percentile(ordered: Sequence[int] | Integers, percent: float) -> int:
    """The smallest value that at least ``percent`` of all don't exceed (nearest rank)."""
    return int(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)])


def _advice(dataset: TokenDataset, max_length: int, p99: int, share: float, row_format: str) -> list[str]:
    report = dataset.stats()
    found = []
    if report.truncated:
        what = f"{report.truncated:,} examples are cut at max_length = {max_length} (the longest has {report.longest:,} tokens)"
        less = _rounded(p99)
        choice = f"; {less:,} would cut at most 1 %" if max_length < less < _rounded(report.longest) else ""
        found.append(f"{what}: trainer.max_length = {_rounded(report.longest):,} would cut none{choice}")
    if report.dropped:
        first = ", ".join(map(str, report.dropped_lines[:3]))
        what = f"{report.dropped:,} examples are left out (lines {first}{', …' if report.dropped > 3 else ''})"
        found.append(f"{what}: nothing to learn from within max_length = {max_length}")
    if row_format != PLAIN_TEXT and (why := unusual(1 - share)):
        found.append(why)
    return found


def unusual(masked: float) -> str:
    """What to say of such a share of tokens without loss; empty when it is a usual one."""
    if LEAST_MASKED <= masked <= MOST_MASKED:
        return ""
    why = "prompts are long beside answers" if masked > MOST_MASKED else "there is hardly any prompt: are the columns the right ones?"
    usual = f"{1 - MOST_MASKED:.0%} to {1 - LEAST_MASKED:.0%}"
    return f"{1 - masked:.0%} of the tokens carry loss, where {usual} are usual: {why}"


def require_masked(dataset: TokenDataset, source: str, row_format: str) -> None:
    """Refuse conversations of which every token would be learned, the questions, too: their mask does not work.

    Raises:
        DataError: Not one token is masked, but for the first of each example, which nothing predicts.
    """
    report = dataset.stats()
    if row_format != PLAIN_TEXT and report.examples and report.learned >= report.tokens - report.examples:
        problem = f"{source}: every token carries loss, so questions would be learned like answers."
        hint = "Look at it: `trainbus data preview`. Are the columns the right ones, and does the chat template show the turns?"
        raise DataError(problem, hint=hint, file=source, found="no masked token")


def require_whole(dataset: TokenDataset, source: str, max_length: int) -> None:
    """Refuse data that hold examples longer than ``max_length``.

    Raises:
        DataError: It names the first lines, and the length that cuts none.
    """
    report = dataset.stats()
    if not report.truncated:
        return
    lines = ", ".join(map(str, report.truncated_lines[:5])) + (", …" if report.truncated > 5 else "")
    problem = f"{source}: {report.truncated:,} examples are longer than max_length = {max_length} (lines {lines})."
    hint = f"Set trainer.max_length = {_rounded(report.longest):,}, shorten them, or set trainer.too_long to cut."
    facts = {"file": source, "line": report.truncated_lines[0], "lines": report.truncated_lines, "key": "trainer.too_long"}
    raise DataError(problem, hint=hint, **facts)


def _rounded(tokens: int) -> int:
    return math.ceil(tokens / ROUND_TOKENS) * ROUND_TOKENS
