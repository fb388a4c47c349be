"""Whether a generated answer is right."""

from __future__ import annotations

MARK = "####"
"""What precedes the final answer in GSM8K: only what follows it is compared, because many ways lead there."""


def final_answer(text: str) -> str:
    """What follows the last mark, else everything, without what doesn't count: white space, case, a last full stop, thousands' commas."""
    final = " ".join(text.rpartition(MARK)[2].split()).casefold().removesuffix(".")
    bare = final.replace(",", "")
    return bare if bare.replace(".", "", 1).lstrip("-").isdigit() else final


def matches(answer: str, expected: str) -> bool:
    """The same final answer. An answer without the mark that the expected one has is wrong: the form belongs to what is learned."""
    if MARK in expected and MARK not in answer:
        return False
    return final_answer(answer) == final_answer(expected)
