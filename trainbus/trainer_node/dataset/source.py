"""A data set as a stream of examples: rows become conversations, and what is none is told with its line and reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from trainbus.errors import DataError
from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.dataset.rows import READ_BYTES, Row, rows_of
from trainbus.trainer_node.formats import ALLOWED, Example, Format, RowError, declared, detect, own_id, renamed, type_name
from trainbus.trainer_node.profile import PLAIN

SHOWN_LINES = 5
"""So many broken lines are named; the rest is counted: a person mends the first ones and looks again."""
LISTED_LINES = 10_000
"""So many line numbers an error carries for programs: a file of a million bad lines must not fill the memory."""
MOST_REJECTED = 0.5
"""A file with a larger share of bad lines is not what it is taken for, and is refused whole."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
ENDINGS = frozenset({".jsonl", ".json", ".ndjson", ".txt", ".csv", ".gz", ".zst", ".parquet"})


class Rejected(msgspec.Struct, frozen=True):
    """A line that is no example: its number, why, and what it holds."""

    line: int
    reason: str
    content: Any


def is_hub_name(name: str) -> bool:
    """Whether ``name`` could be a name on a hub: ``name`` or ``owner/name``, and no file's ending."""
    return HUB_NAME.fullmatch(name) is not None and Path(name).suffix not in ENDINGS


class Source:
    """A file, or a hub data set when no such file exists and the name could be one. Iterating gives its examples.

    Args:
        name: Path or hub name.
        reading: What decides on the examples.
        tolerant: Lines that are no examples are left out, as long as they are not more than half. Else the first of them ends the
            examples, and the rest is read for the error alone.
        most: Look at so many rows at most; None for all.
        reject: Given each line that is left out.
        progress: Told now and then which fraction has been read.

    Raises:
        DataError: Missing, unreadable, malformed or empty; the facts name file and line. Also from iterating and `digest`.
    """

    def __init__(
        self,
        name: str,
        reading: Reading = Reading(),  # noqa: B008 - frozen
        *,
        tolerant: bool = False,
        most: int | None = None,
        reject: Callable[[Rejected], None] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.name = name
        self.examples = self.rejected = 0
        self._tolerant = tolerant
        self._reading = reading
        self._most = most
        self._reject = reject or (lambda _: None)
        self._progress = progress or (lambda _: None)
        self._format: Format | None = None
        self._problems: list[tuple[int, RowError]] = []
        path = Path(name).expanduser()
        self._path = path if path.exists() else None
        self._hub: Any = None if self._path else _from_hub(name, reading.split)

    @property
    def format(self) -> str:
        """Name of the format; empty until the first example came."""
        return self._format.name if self._format else ""

    def digest(self) -> str:
        """Hex xxh3-128 of the file's content; a hub data set has a fingerprint."""
        if self._path is None:
            return f"hub-{self._hub._fingerprint}"
        digest = xxhash.xxh3_128()
        try:
            with self._path.open("rb") as file:
                while chunk := file.read(READ_BYTES):
                    digest.update(chunk)
        except OSError as error:
            hint = "Check the path and its permissions."
            raise DataError(f"{self.name} can't be read: {error.strerror}.", hint=hint, file=self.name) from error
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Example]:
        for number, row in self._rows():
            try:
                example = self._convert(number, row)
            except RowError as problem:
                self._note(number, row, problem)
                continue
            self.examples += 1
            if self._tolerant or not self.rejected:
                yield example
        self._judge()
        self._progress(1.0)

    def _rows(self) -> Iterator[Row]:
        if self._path is not None:
            return islice(rows_of(self._path, self._progress), self._most)
        return ((number, dict(row)) for number, row in enumerate(islice(self._hub, self._most), 1))

    def _convert(self, number: int, row: Any) -> Example:
        """A row as an example. The first row that has a format decides on it, unless the format is told."""
        if isinstance(row, RowError):
            raise row
        if not isinstance(row, dict):
            such = ', such as {"messages": [...]},' if isinstance(row, list) else ""
            raise RowError(f"{type_name(row)} where an object{such} is expected", found=type_name(row), allowed="an object")
        named = renamed(row, self._reading.columns) if self._reading.columns else row
        told = declared(named, self._reading.schema)
        if told is not None and self._format not in (None, told):
            raise RowError(f"{told.name} in a file of {self.format}", found=told.schema, allowed=self.format)
        self._format = self._format or told or detect(named)
        converted = self._format.convert(named)
        example = Example(turns=converted.turns, text=converted.text, line=number, id=own_id(named))
        return example if self._reading.profile == PLAIN else self._reading.profile.encode(example)

    def _note(self, number: int, row: Any, problem: RowError) -> None:
        self.rejected += 1
        if len(self._problems) < LISTED_LINES:
            self._problems.append((number, problem))
        self._reject(Rejected(number, f"{problem.what}. Allowed: {problem.allowed}", problem.raw or row))

    def _judge(self) -> None:
        """What all rows together say."""
        rows = self.rejected + self.examples
        if self.rejected and not (self._tolerant and self.rejected <= MOST_REJECTED * rows):
            raise self._refusal(rows)
        if not rows:
            hint = f"Each line is one JSON object with the keys of a known format: {ALLOWED}."
            raise DataError(f"{self.name} is empty.", hint=hint, file=self.name, found="no lines")

    def _refusal(self, rows: int) -> DataError:
        number, first = self._problems[0]
        text = f"{self.name}, line {number}: {first.what}."
        if first.found not in first.what:
            text += f" Found: {first.found}"
        if self.rejected > 1:
            others = ", ".join(str(line) for line, _ in self._problems[1:SHOWN_LINES])
            more = ", …" if self.rejected > SHOWN_LINES else ""
            text += f"\n{self.rejected} of {rows} lines are refused; the next: {others}{more}."
        hint = f"Allowed: {first.allowed}. Mend or remove the lines and start again."
        lines = [line for line, _ in self._problems]
        return DataError(text, hint=hint, file=self.name, line=number, lines=lines, found=first.found, allowed=first.allowed)


def _from_hub(name: str, split: str) -> Any:
    """A data set by its hub name. Everything that `datasets` can raise is one kind of trouble to a person: it can't be had."""
    if not is_hub_name(name):
        raise DataError(f"There is no file {name}.", hint="Check the path; relative paths start where the command runs.", file=name)
    import datasets

    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check the name and the network; a local JSONL file needs neither."
        raise DataError(
            f"There is no file {name}, and the hub does not give a data set of that name: {reason}", hint=hint, file=name
        ) from error
