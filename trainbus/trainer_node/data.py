"""Training data: a JSONL file or a hub data set becomes a list of examples, or an error that names file and line."""

from __future__ import annotations

import gzip
import io
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import DataError
from trainbus.trainer_node.formats import ALLOWED, Example, Format, RowError, detect, type_name

SHOWN_LINES = 5
"""So many broken lines are named; the rest is counted: a person mends the first ones and looks again."""

MOST_REJECTED = 0.5
"""A file with a larger share of bad lines is not what it is taken for, and is refused whole."""
QUOTED_CHARACTERS = 60
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe", "is UTF-16 text", "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
    (b"\xfe\xff", "is UTF-16 text", "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
    (b"version https://git-lfs", "is a Git LFS pointer, not the data", "Fetch the data: `git lfs pull`."),
)
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
LONGEST_LINE_BYTES = 100 * 1024**2
"""A longer line is no training example: a file without line ends, or not JSON Lines at all."""


class Rejected(msgspec.Struct, frozen=True):
    """A line that is no example: its number, why, and what it holds."""

    line: int
    reason: str
    content: Any


class Loaded(msgspec.Struct):
    """Examples of one source, what format they had, and the lines that were left out."""

    examples: list[Example]
    format: str
    source: str
    rejected: list[Rejected] = []


def is_hub_name(name: str) -> bool:
    """Whether ``name`` could be a name on a hub: ``name`` or ``owner/name``, and no file's ending."""
    return HUB_NAME.fullmatch(name) is not None and Path(name).suffix not in {
        ".jsonl",
        ".json",
        ".ndjson",
        ".txt",
        ".csv",
        ".gz",
        ".zst",
        ".parquet",
    }


def load(source: str, split: str = "train", *, tolerant: bool = False) -> Loaded:
    """The examples of a file, or of a hub data set when no such file exists and the name could be one.

    Args:
        tolerant: Lines that are no examples are left out and told, as long as they are not more than half.

    Raises:
        DataError: Missing, unreadable, malformed or empty; the facts name file and line.
    """
    path = Path(source).expanduser()
    if path.exists():
        return load_file(path, tolerant=tolerant)
    if is_hub_name(source):
        return _load_hub(source, split)
    raise DataError(f"There is no file {source}.", hint="Check the path; relative paths start where the command runs.", file=source)


def load_file(path: Path, *, tolerant: bool = False) -> Loaded:
    """The examples of a file: JSON Lines (plain, gzip or zstd), one JSON list of objects, or Parquet. What it is, its first bytes tell.

    Blank lines and a UTF-8 byte-order mark are passed over.

    Raises:
        DataError: As for `load`.
    """
    if not path.is_file():
        raise DataError(f"{path} is a directory.", hint="Name one JSONL file in it.", file=str(path), found="a directory", allowed="a file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head.startswith(_PARQUET):
                return _collect(_parquet(path), str(path), tolerant=tolerant)
            if head.startswith((_GZIP, _ZSTD)):
                with _unpacked(path, head) as unpacked:
                    return _collect(_rows(unpacked, str(path)), str(path), tolerant=tolerant)
            for signature, what, hint in _SIGNATURES:
                if head.startswith(signature):
                    raise DataError(
                        f"{path} {what}.",
                        hint=hint.replace("FILE", str(path)),
                        file=str(path),
                        line=1,
                        found=what,
                        allowed="JSON Lines in UTF-8",
                    )
            file.seek(0)
            if path.suffix == ".json" and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                return _collect(_listed(file.read(), path), str(path), tolerant=tolerant)
            return _collect(_rows(file, str(path)), str(path), tolerant=tolerant)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} ends in the middle, or is damaged: {error}", hint="Copy it again.", file=str(path)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path} can't be read: {reason}.", hint="Check its permissions; copy it again if it is damaged.", file=str(path)
        ) from error


def split(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out a share of the examples, the same for the same seed. At least one is held out, and one stays."""
    held = min(max(1, round(len(examples) * fraction)), len(examples) - 1)
    if fraction <= 0 or held <= 0:
        return examples, []
    chosen = set(random.Random(seed).sample(range(len(examples)), held))
    return [e for i, e in enumerate(examples) if i not in chosen], [examples[i] for i in sorted(chosen)]


def _rows(lines: Iterable[bytes], source: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of each line that is not blank; a `RowError` in place of a value that is none."""
    for number, raw in enumerate(lines, 1):
        line = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).strip()
        if len(line) > LONGEST_LINE_BYTES:
            yield (
                number,
                RowError(f"{len(line):,} bytes in one line", found="no line end", allowed=f"lines of {LONGEST_LINE_BYTES:,} bytes at most"),
            )
        elif line:
            yield number, _parse(line)


def _listed(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    """The objects of one JSON list, numbered from 1."""
    try:
        rows = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=list[Any])
    except DECODE_ERRORS as error:
        raise DataError(f"{path} is not valid JSON: {error}", hint="A .json file is one list of objects.", file=str(path)) from error
    yield from enumerate(rows, 1)


def _unpacked(path: Path, head: bytes) -> BinaryIO:
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(path))
    try:
        import pyarrow
    except ImportError as error:
        hint = "Install it (pip install 'trainbus[parquet]'), or unpack the file: `unzstd FILE`."
        raise DataError(f"{path} is compressed (zstd), which needs pyarrow.", hint=hint, file=str(path)) from error
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a Parquet file, numbered from 1, a batch in memory at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        hint = "Install it: pip install 'trainbus[parquet]'."
        raise DataError(f"{path} is a Parquet file, which needs pyarrow.", hint=hint, file=str(path)) from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is damaged: {error}", hint="Copy it again.", file=str(path)) from error


def _parse(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except DECODE_ERRORS as error:
        quoted = line[:QUOTED_CHARACTERS].decode("utf-8", "replace") + ("…" if len(line) > QUOTED_CHARACTERS else "")
        raw = line.decode("utf-8", "replace")
        return RowError(f"not valid JSON ({_why(line, str(error))})", found=quoted, allowed="one JSON object a line", raw=raw)


def _why(line: bytes, error: str) -> str:
    """The parser's complaint in words that help: the faults seen in real files have names."""
    if line in {b"{", b"["}:
        return "an object or list spread over many lines: write each on one line, for example by `jq -c`"
    if line.startswith((b"#", b"//")):
        return "a comment: JSON has none"
    if re.search(rb"[:\[,]\s*(NaN|-?Infinity)\b", line):
        return "it holds NaN or Infinity, which JSON does not know: write null"
    return error.removeprefix("JSON is malformed: ")


def write_rejected(path: Path, rejected: list[Rejected]) -> None:
    """Keep lines that were left out, with their reasons, as JSON Lines: mend them there and train on them later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in rejected))


def _collect(rows: Iterable[tuple[int, Any]], source: str, *, tolerant: bool = False) -> Loaded:
    examples: list[Example] = []
    problems: list[tuple[int, RowError]] = []
    rejected: list[Rejected] = []
    known: Format | None = None
    for number, row in rows:
        try:
            known, example = _convert(number, row, known)
            examples.append(example)
        except RowError as problem:
            problems.append((number, problem))
            rejected.append(Rejected(number, f"{problem.what}. Allowed: {problem.allowed}", problem.raw or row))
    if problems and not (tolerant and len(problems) <= MOST_REJECTED * (len(problems) + len(examples))):
        raise _refusal(source, problems, len(problems) + len(examples))
    if known is None:
        raise DataError(
            f"{source} is empty.",
            hint=f"Each line is one JSON object with the keys of a known format: {ALLOWED}.",
            file=source,
            found="no lines",
        )
    return Loaded(examples, known.name, source, rejected)


def _convert(number: int, row: Any, known: Format | None) -> tuple[Format, Example]:
    """A row as an example; the first row that is an object decides on the format."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        such = ', such as {"messages": [...]},' if isinstance(row, list) else ""
        raise RowError(f"{type_name(row)} where an object{such} is expected", found=type_name(row), allowed="an object")
    known = known or detect(row)
    converted = known.convert(row)
    return known, Example(turns=converted.turns, text=converted.text, line=number)


def _refusal(source: str, problems: list[tuple[int, RowError]], rows: int) -> DataError:
    number, first = problems[0]
    text = f"{source}, line {number}: {first.what}."
    if first.found not in first.what:
        text += f" Found: {first.found}"
    if len(problems) > 1:
        others = ", ".join(str(line) for line, _ in problems[1:SHOWN_LINES])
        text += f"\n{len(problems)} of {rows} lines are refused; the next: {others}{', …' if len(problems) > SHOWN_LINES else ''}."
    hint = f"Allowed: {first.allowed}. Mend or remove the lines and start again."
    lines = [line for line, _ in problems]
    return DataError(text, hint=hint, file=source, line=number, lines=lines, found=first.found, allowed=first.allowed)


def _load_hub(name: str, split: str) -> Loaded:
    """A data set by its hub name. Everything that `datasets` can raise is one kind of trouble to a person: it can't be had."""
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check the name and the network; a local JSONL file needs neither."
        raise DataError(
            f"There is no file {name}, and the hub does not give a data set of that name: {reason}", hint=hint, file=name
        ) from error
    return _collect(((number, dict(row)) for number, row in enumerate(rows, 1)), name)
