"""When two texts are told to be the same: one rule for training data, questions that they hold, and data that a model writes."""

from __future__ import annotations

import unicodedata


def folded(text: str) -> str:
    """Two texts that differ in case, in the amount of blanks or in the form of their letters alone are the same here."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())
