"""Which examples there are already: seeds, the inbox's files, and what was generated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from trainbus.errors import DataError
from trainbus.inferring.generating.harvest import texts_of
from trainbus.trainer_node.data import load_file
from trainbus.trainer_node.formats import Example
from trainbus.trainer_node.inbox.intake import ACCEPTED, COMPLETED, FAILED, QUEUED

SEEDS, ITSELF = "a seed", "another new one"


class KnownStats(Struct, frozen=True):
    """Examples that are known, and files that could not be read for them."""

    examples: int
    unreadable: int


class Known:
    """Two examples are the same when they differ in case and white space alone; with ``by_question`` also when they ask the same.

    Args:
        by_question: A second answer to a question that is there already is no new example.
    """

    def __init__(self, *, by_question: bool) -> None:
        self._by_question = by_question
        self._seen: dict[bytes, str] = {}
        self._examples = self._unreadable = 0

    def stats(self) -> KnownStats:
        """Figures at this moment."""
        return KnownStats(self._examples, self._unreadable)

    def add(self, example: Example, where: str) -> str:
        """Remember an example; returns where it was before, empty when it is new."""
        digests = self._digests(example)
        found = next((self._seen[digest] for digest in digests if digest in self._seen), "")
        if not found:
            self._examples += 1
            for digest in digests:
                self._seen[digest] = where
        return found

    def add_inbox(self, inbox: Path) -> None:
        """All that waits in an inbox, is trained on, or was."""
        for path in data_files(inbox):
            try:
                examples: Iterable[Example] = load_file(path, tolerant=True).examples
            except DataError:
                self._unreadable += 1  # the trainer says why when it comes to it
                continue
            for example in examples:
                self.add(example, "the inbox")

    def _digests(self, example: Example) -> list[bytes]:
        asked, whole = texts_of(example)
        texts = [f"whole\n{whole}", *([f"asked\n{asked}"] if self._by_question and asked else [])]
        return [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]


def data_files(inbox: Path, *, waiting: bool = False) -> Iterator[Path]:
    """Data files of an inbox, in its folders, too, without those that failed; ``waiting``: only what the trainer has not taken yet."""
    for path in sorted(inbox.rglob("*")) if inbox.is_dir() else ():
        parts = path.relative_to(inbox).parts
        folder = parts[0] if len(parts) > 1 else ""
        if waiting if folder in (QUEUED, COMPLETED) else folder == FAILED or any(part.startswith(".") for part in parts):
            continue
        if path.name.lower().endswith(ACCEPTED) and path.is_file():
            yield path
