"""What is in a data file, row by row: JSON Lines (plain, gzip, zstd), one JSON list, or Parquet. Only a piece of it is ever in memory.

What a file is, its first bytes tell. Blank lines and a UTF-8 byte-order mark are passed over.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import DataError
from trainbus.trainer_node.formats import RowError

LONGEST_LINE_BYTES = 100 * 1024**2
"""A longer line is no training example: a file without line ends, or not JSON Lines at all."""
READ_BYTES = 1 << 20
QUOTED_CHARACTERS = 60

Row = tuple[int, Any]
"""Its number, counted from 1 as an editor counts lines, and its value: a `RowError` in place of one that can't be read."""

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_MARK = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\r\n]*")
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe", "is UTF-16 text", "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
    (b"\xfe\xff", "is UTF-16 text", "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
    (b"version https://git-lfs", "is a Git LFS pointer, not the data", "Fetch the data: `git lfs pull`."),
)


def rows_of(path: Path, progress: Callable[[float], None] | None = None) -> Iterator[Row]:
    """The rows of a file.

    Args:
        progress: Told now and then which fraction has been read.

    Raises:
        DataError: It is a directory, can't be read, is damaged, or is of a kind that can't be trained on.
    """
    if not path.is_file():
        raise DataError(f"{path} is a directory.", hint="Name one JSONL file in it.", file=str(path), found="a directory", allowed="a file")
    told = progress or (lambda _: None)
    with _explained(path), path.open("rb") as file:
        head = file.read(64)
        _refuse_others(path, head)
        file.seek(0)
        if head.startswith(_PARQUET):
            yield from _parquet(path, told)
        elif path.suffix == ".json" and head.removeprefix(_MARK).lstrip().startswith(b"["):
            yield from _counted(_listed(file, path), file, path, told)
        else:
            yield from _counted(_lines(_split(_unpacked(file, path, head))), file, path, told)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What reading a file can raise, in words."""
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} ends in the middle, or is damaged: {error}", hint="Copy it again.", file=str(path)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "Check its permissions; copy it again if it is damaged."
        raise DataError(f"{path} can't be read: {reason}.", hint=hint, file=str(path)) from error


def _refuse_others(path: Path, head: bytes) -> None:
    for signature, what, hint in _SIGNATURES:
        if head.startswith(signature):
            advice = hint.replace("FILE", str(path))
            raise DataError(f"{path} {what}.", hint=advice, file=str(path), line=1, found=what, allowed="JSON Lines in UTF-8")


def _counted(rows: Iterable[Row], file: BinaryIO, path: Path, progress: Callable[[float], None]) -> Iterator[Row]:
    size = max(1, path.stat().st_size)
    for count, row in enumerate(rows):
        yield row
        if count % 1000 == 999:
            progress(min(1.0, file.tell() / size))


def _split(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. Of one that is too long only the beginning is kept in memory, the rest is read and dropped."""
    while line := file.readline(LONGEST_LINE_BYTES + 2):
        yield line
        cut = len(line) > LONGEST_LINE_BYTES and not line.endswith(b"\n")
        while cut:
            rest = file.readline(READ_BYTES)
            cut = bool(rest) and not rest.endswith(b"\n")


def _lines(lines: Iterable[bytes]) -> Iterator[Row]:
    for number, raw in enumerate(lines, 1):
        line = (raw.removeprefix(_MARK) if number == 1 else raw).strip()
        if len(line) > LONGEST_LINE_BYTES:
            allowed = f"lines of {LONGEST_LINE_BYTES:,} bytes at most"
            yield number, RowError(f"more than {LONGEST_LINE_BYTES:,} bytes in one line", found="no line end", allowed=allowed)
        elif line:
            yield number, _parse(line)


def _listed(file: BinaryIO, path: Path) -> Iterator[Row]:
    """The elements of one JSON list, numbered from 1, decoded as they are read."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    number = 0
    try:
        text = codecs.getreader("utf-8-sig")(file)
        buffer = text.read(READ_BYTES)
        at, wanted = buffer.index("[") + 1, READ_BYTES
        while True:
            at = _after_blanks(buffer, at)
            if buffer.startswith("]", at):
                return
            fault = "it ends in the middle"
            try:
                value, end = decoder.raw_decode(buffer, at)
                end = _after_blanks(buffer, end)
                if buffer[end : end + 1] in (",", "]"):  # nothing there: perhaps only the first digits of a number were read
                    number, at, wanted = number + 1, end + buffer.startswith(",", end), READ_BYTES
                    yield number, value
                    continue
            except json.JSONDecodeError as error:
                fault = error.msg
            more = text.read(wanted)
            wanted *= 2  # a long element is not parsed again for each small piece of it
            buffer, at = buffer[at:] + more, 0
            if not more or len(buffer) > LONGEST_LINE_BYTES:
                break
    except (ValueError, RecursionError) as error:  # not UTF-8, NaN, or nested thousands deep
        fault = str(error)
    problem = f"{path} is not valid JSON after {number:,} elements: {fault}"
    raise DataError(problem, hint="A .json file is one list of objects.", file=str(path))


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which JSON does not know: write null")


def _unpacked(file: BinaryIO, path: Path, head: bytes) -> BinaryIO:
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(file))
    if not head.startswith(_ZSTD):
        return file
    try:
        import pyarrow
    except ImportError as error:
        hint = "Install it (pip install 'trainbus[parquet]'), or unpack the file: `unzstd FILE`."
        raise DataError(f"{path} is compressed (zstd), which needs pyarrow.", hint=hint, file=str(path)) from error
    return io.BufferedReader(pyarrow.input_stream(pyarrow.PythonFile(file), compression="zstd"))


def _parquet(path: Path, progress: Callable[[float], None]) -> Iterator[Row]:
    """The rows of a Parquet file, numbered from 1, a batch in memory at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        hint = "Install it: pip install 'trainbus[parquet]'."
        raise DataError(f"{path} is a Parquet file, which needs pyarrow.", hint=hint, file=str(path)) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                progress(min(1.0, number / max(1, file.metadata.num_rows)))
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
