"""Whether an answer is the expected one: pure functions of two texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
FINAL = re.compile(r"####\s*(.+)")
"""How GSM8K marks the final answer: https://github.com/openai/grade-school-math."""

ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def exact_match(answer: str, expected: str) -> bool:
    """The same text but for white space around it."""
    return answer.strip() == expected.strip()


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space, as SQuAD's evaluation does it; other scripts keep their letters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(" " if unicodedata.category(char).startswith("P") and char not in ".-" else char for char in folded)
    words = [word.strip(".-") if not NUMBER.fullmatch(word) else word for word in ARTICLES.sub(" ", bare).split()]
    return " ".join(word for word in words if word)


def normalised_match(answer: str, expected: str) -> bool:
    """The same text after `normalise`."""
    return normalise(answer) == normalise(expected)


def final_number(text: str) -> Decimal | None:
    """The number that a text ends on: that after ``####`` where that is, else the last one, without ``$``, ``%`` and thousands' commas."""
    marked = FINAL.findall(text)
    found = NUMBER.findall(marked[-1]) if marked else []
    chosen = found[0] if found else (NUMBER.findall(text) or [None])[-1]
    if chosen is None:
        return None
    try:
        return Decimal(chosen.replace(",", ""))
    except InvalidOperation:
        return None


def number_match(answer: str, expected: str) -> bool | None:
    """The same final number, by value: 5.0 is 5. None when there is no number to be expected."""
    wanted = final_number(expected)
    return None if wanted is None else final_number(answer) == wanted


SCORERS: dict[str, Callable[[str, str], bool | None]] = {
    "exact_match": exact_match,
    "normalised_match": normalised_match,
    "number_match": number_match,
}
