"""A conversation with a model, as it is sent and as it is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.errors import DataError


class ConversationStats(Struct, frozen=True):
    """Turns that were answered, and characters in all of it."""

    turns: int
    characters: int


class Conversation:
    """Questions and their answers. Only what was wholly answered is part of it.

    Args:
        system: Stands before everything; empty for nothing.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._turns)

    def stats(self) -> ConversationStats:
        """Figures at this moment."""
        return ConversationStats(len(self._turns), len(self.system) + sum(len(asked) + len(said) for asked, said in self._turns))

    def messages(self, question: str | None = None) -> list[dict[str, str]]:
        """What is sent to ask ``question`` next; without one, the conversation so far."""
        sent = [{"role": "system", "content": self.system}] if self.system else []
        for asked, said in self._turns:
            sent += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        return sent if question is None else [*sent, {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        """A question was answered."""
        self._turns.append((question, answer))

    def take_back(self) -> str | None:
        """Forget the last question and its answer, and give the question; None when there is none."""
        return self._turns.pop()[0] if self._turns else None

    def clear(self) -> None:
        """Begin anew, with the same system message."""
        self._turns.clear()

    def save(self, path: Path, model: str) -> None:
        """Add the conversation to a JSON Lines file in the form that training reads.

        Raises:
            DataError: The file can't be written, or is no such file.
        """
        line = msgspec.json.encode({"messages": self.messages(), "model": model}) + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, 2)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
        except OSError as error:
            problem = f"{path} can't be written: {error.strerror}."
            raise DataError(problem, hint="Name another file.", file=str(path)) from error
