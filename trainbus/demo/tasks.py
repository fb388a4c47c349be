"""Small questions whose answers can be checked: the same seed gives the same tasks. No download, no model needed."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

LETTERS = 3
"""Letters of a word: few enough that a model of a million parameters learns to handle them within a minute."""


class Task(msgspec.Struct, frozen=True):
    """One question. ``id`` names it across runs; ``kind`` is the skill that it asks for."""

    id: str
    kind: str
    question: str
    answer: str


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=LETTERS))


def _say(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"say {word}", word


def _upper(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"upper {word}", word.upper()


def _reverse(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"reverse {word}", word[::-1]


def _last(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"last {word}", word[-1]


def _largest(rng: random.Random) -> tuple[str, str]:
    digits = rng.choices(string.digits, k=LETTERS)
    return f"largest {''.join(digits)}", max(digits)


def _sort(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"sort {word}", "".join(sorted(word))


KINDS: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {
    "say": _say,
    "upper": _upper,
    "reverse": _reverse,
    "last": _last,
    "largest": _largest,
    "sort": _sort,
}
BASE_KINDS = ("say",)
"""What the base model is taught when it is made: to speak the format and to copy."""

TAUGHT_KINDS = ("upper", "reverse", "last", "largest", "sort")
"""What fine-tuning teaches."""


def stream(seed: int, kinds: tuple[str, ...] = TAUGHT_KINDS) -> Iterator[Task]:
    """Tasks without end, of each kind in turn."""
    rng = random.Random(seed)
    number = 0
    while True:
        kind = kinds[number % len(kinds)]
        question, answer = KINDS[kind](rng)
        yield Task(f"{kind}-{number}", kind, question, answer)
        number += 1


def held_out(count: int, seed: int = 7, kinds: tuple[str, ...] = TAUGHT_KINDS) -> list[Task]:
    """A fixed set of different questions for measuring; `training` keeps clear of them."""
    chosen: dict[str, Task] = {}
    for task in stream(seed, kinds):
        if len(chosen) == count:
            break
        chosen.setdefault(task.question, task)
    return list(chosen.values())


def training(count: int, seed: int, avoid: list[Task], kinds: tuple[str, ...] = TAUGHT_KINDS) -> list[Task]:
    """Tasks to learn from, none of which asks a question of ``avoid``."""
    known = {task.question for task in avoid}
    chosen: list[Task] = []
    for task in stream(seed, kinds):
        if len(chosen) == count:
            break
        if task.question not in known:
            chosen.append(task)
    return chosen


def write(tasks: list[Task], path: Path) -> Path:
    """Write tasks as JSON Lines with ``question`` and ``answer`` (and ``id``, ``kind``); gives the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(task) + b"\n" for task in tasks))
    return path


def correct(task: Task, answer: str) -> bool:
    """Whether an answer is the expected one, white space at its ends apart."""
    return answer.strip() == task.answer
