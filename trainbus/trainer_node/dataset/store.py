"""Token ids in flat arrays: written once, piece by piece, then read from memory or from mapped files.

tokens    each token's id times two, plus one if it carries loss: 16 or 32 bits, as the vocabulary needs
starts    where each example begins in ``tokens``, and where the last ends (64 bits)
lines     the line of each example in its file (64 bits)
exact, normal, prompt, id    its fingerprints (64 bits each)
taught    how many of its tokens carry loss (32 bits)
lengths   tokens of every example of the file before it was cut, of those that were left out too (32 bits)
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from msgspec import Struct, structs

from trainbus.trainer_node.dataset.encoding import Encoded, Integers
from trainbus.trainer_node.dataset.fingerprints import fingerprint
from trainbus.trainer_node.formats import Example

IGNORED = -100
"""The label of a token without loss, as torch's cross entropy has it."""

PRINTS = ("exact", "normal", "prompt", "id")
"""In the order of the columns of `trainbus.trainer_node.dataset.fingerprints`."""
KINDS: Mapping[str, str] = {
    "tokens": "", "starts": "<i8", "lines": "<i8", "taught": "<i4", "lengths": "<i4", **dict.fromkeys(PRINTS, "<u8"),
}  # fmt: skip
"""Files and their types; that of the tokens follows from the vocabulary."""

RESIDENT_BYTES = 32 << 20
"""So much of the mapped tokens stays in this process's memory; after that the pages are let go (the system still has them cached)."""
PAGES_AROUND = 64 << 10
"""Linux maps so much around a page that is read."""
NAMED_LINES = 10


class Report(Struct, frozen=True, kw_only=True):
    """What tokenising did. ``dropped`` examples had no token left to learn from after truncation; lines: the first of each kind."""

    examples: int = 0
    tokens: int = 0
    learned: int = 0
    truncated: int = 0
    dropped: int = 0
    longest: int = 0
    truncated_lines: list[int] = []
    dropped_lines: list[int] = []


class Writer:
    """Takes tokenised examples, cuts them, and writes the arrays.

    Args:
        open_file: Gives a new file for each of `KINDS`.
        vocabulary: Ids are below this.
        max_length: Longer examples are cut there, and counted; one without a token to learn from is counted and left out.
    """

    def __init__(self, open_file: Callable[[str], BinaryIO], vocabulary: int, max_length: int) -> None:
        self._max_length = max_length
        self._files = {name: open_file(name) for name in KINDS}
        self.kind = "<u2" if vocabulary * 2 <= 1 << 16 else "<u4"
        self._files["starts"].write(np.zeros(1, KINDS["starts"]).tobytes())
        self._examples = self._tokens = self._learned = self._truncated = self._dropped = self._longest = 0
        self._truncated_lines: list[int] = []
        self._dropped_lines: list[int] = []

    def append(self, examples: Sequence[Example], encoded: Encoded) -> None:
        """Add examples, in order."""
        lengths = encoded.lengths
        if not len(lengths):
            return
        number = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(encoded.ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        inside = place < self._max_length
        # The first token has no predecessor that could predict it, so its label counts for nothing.
        taught = np.bincount(number[encoded.learned & inside & (place > 0)], minlength=len(lengths))
        kept, cut = taught > 0, lengths > self._max_length
        lines = np.fromiter((example.line for example in examples), np.int64, len(examples))
        self._note(self._truncated_lines, lines[cut])
        self._note(self._dropped_lines, lines[~kept])
        chosen = inside & kept[number]
        tokens = encoded.ids[chosen].astype(self.kind) * 2 + encoded.learned[chosen]
        starts = self._tokens + np.cumsum(np.minimum(lengths, self._max_length)[kept])
        prints = np.array([fingerprint(one) for one, whether in zip(examples, kept, strict=True) if whether], np.uint64).reshape(-1, 4)
        self._write("tokens", tokens, self.kind)
        self._write("starts", starts)
        self._write("lines", lines[kept])
        for column, name in enumerate(PRINTS):
            self._write(name, prints[:, column])
        self._write("taught", taught[kept])
        self._write("lengths", lengths)
        self._examples += int(kept.sum())
        self._tokens += len(tokens)
        self._learned += int(taught.sum())
        self._truncated += int(cut.sum())
        self._dropped += int((~kept).sum())
        self._longest = max(self._longest, int(lengths.max()))

    def report(self) -> Report:
        """Counts so far."""
        return Report(
            examples=self._examples, tokens=self._tokens, learned=self._learned, truncated=self._truncated, dropped=self._dropped,
            longest=self._longest, truncated_lines=self._truncated_lines, dropped_lines=self._dropped_lines,
        )  # fmt: skip

    def _write(self, name: str, values: Integers, kind: str = "") -> None:
        self._files[name].write(np.ascontiguousarray(values, kind or KINDS[name]).tobytes())

    @staticmethod
    def _note(noted: list[int], lines: Integers) -> None:
        noted += lines[: NAMED_LINES - len(noted)].tolist()


class TokenDataset:
    """Tokenised examples. ``dataset[i]`` has ``input_ids`` and ``labels`` as lists.

    Args:
        buffers: One for each of `KINDS`.
        kind: Type of the tokens.
        report: What `stats` gives.
    """

    def __init__(self, buffers: Mapping[str, Any], kind: str, report: Report) -> None:
        arrays = {name: np.frombuffer(buffers[name], kind if name == "tokens" else KINDS[name]) for name in KINDS}
        self._tokens, self._starts = arrays["tokens"], arrays["starts"]
        self.lines: Integers = arrays["lines"]
        self._prints = [arrays[name] for name in PRINTS]
        self.taught: Integers = arrays["taught"]
        self.full_lengths: Integers = arrays["lengths"]
        self._report = report
        self._mapped: mmap.mmap | None = buffers["tokens"] if isinstance(buffers["tokens"], mmap.mmap) else None
        self._touched = 0
        self.origin: tuple[Path, str, Report] | None = None
        """What `mapped` makes it of again in another process."""

    def __reduce__(self) -> Any:
        return super().__reduce__() if self.origin is None else (mapped, self.origin)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = self._tokens[self._starts[index] : self._starts[index + 1]].astype(np.int64)
        if self._mapped is not None:
            self._let_go(tokens.nbytes)
        ids = tokens >> 1
        return {"input_ids": ids.tolist(), "labels": np.where(tokens & 1, ids, IGNORED).tolist()}

    def prints(self, column: int) -> Integers:
        """One column of the fingerprints."""
        return self._prints[column]

    def lengths(self) -> Integers:
        """Tokens of each example, as it is trained on."""
        return np.diff(self._starts)

    def stats(self) -> Report:
        """What tokenising did."""
        return self._report

    def _let_go(self, read: int) -> None:
        assert self._mapped is not None
        self._touched += read + PAGES_AROUND
        if self._touched > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


class Selection:
    """Some examples of a dataset, in the order of their indices; used as a dataset."""

    def __init__(self, dataset: TokenDataset, indices: Integers) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.dataset[int(self.indices[index])]

    @property
    def lines(self) -> Integers:
        """The line of each example in its file."""
        return self.dataset.lines[self.indices]

    def prints(self, column: int) -> Integers:
        """One column of the fingerprints."""
        return self.dataset.prints(column)[self.indices]

    def lengths(self) -> Integers:
        """Tokens of each example."""
        return self.dataset.lengths()[self.indices]

    def stats(self) -> Report:
        """What tokenising did to the file, with the counts of what is selected of it."""
        learned = int(self.dataset.taught[self.indices].sum())
        return structs.replace(self.dataset.stats(), examples=len(self), tokens=int(self.lengths().sum()), learned=learned)


class Memory:
    """Files in memory, for a few examples."""

    def __init__(self) -> None:
        self._files: dict[str, io.BytesIO] = {}

    def open(self, name: str) -> BinaryIO:
        """A new file."""
        return self._files.setdefault(name, io.BytesIO())

    def dataset(self, writer: Writer) -> TokenDataset:
        """What was written."""
        return TokenDataset({name: file.getvalue() for name, file in self._files.items()}, writer.kind, writer.report())


def mapped(folder: Path, kind: str, report: Report) -> TokenDataset:
    """The files of a folder as a dataset.

    Raises:
        OSError: One of them is gone.
    """
    buffers: dict[str, Any] = {}
    for name in KINDS:
        with (folder / name).open("rb") as file:
            empty = not file.seek(0, io.SEEK_END)
            buffers[name] = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dataset = TokenDataset(buffers, kind, report)
    dataset.origin = (folder, kind, report)
    return dataset
