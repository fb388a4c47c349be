"""Tokenised data on disk, so that the same file is tokenised once and a training holds little of it in memory.

ROOT/KEY/            one tokenised file: the arrays of `trainbus.trainer_node.dataset.store`, rejected.jsonl, info.json
ROOT/KEY.partial-…/  one that is being made
ROOT/lock-XX         held while one is made whose KEY begins with XX; another process that wants the same waits

KEY is a digest of all that the arrays follow from: the file's content, the tokenizer, its chat template, max_length, how rows are read,
and the version of this format. A folder gets its name when all of it is on the disk. So what is found under KEY is whole and right,
whatever happened to whoever made it. How examples are packed is worked out from their lengths at each start, and is no part of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import xxhash
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import home, private_directory
from trainbus.errors import DataError
from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.dataset.source import Rejected, Source
from trainbus.trainer_node.dataset.store import KINDS, Report, TokenDataset, Writer, mapped
from trainbus.trainer_node.dataset.tokenising import tokenise_into

FORMAT = 1
"""Raised whenever the arrays, or what is written into them for the same input, change."""
INFO, REJECTED = "info.json", "rejected.jsonl"


class Recipe(Struct, frozen=True, kw_only=True):
    """What a tokenised file follows from, beside the version of the format."""

    name: str
    content: str
    tokenizer: str
    max_length: int
    tolerant: bool = False
    reading: Reading = Reading()

    @property
    def key(self) -> str:
        """Hex digest; what the file is called plays no part."""
        parts = (FORMAT, self.content, self.tokenizer, self.max_length, self.tolerant, *self.reading.parts)
        return xxhash.xxh3_128(repr(parts).encode()).hexdigest()


class Tokenised(Struct, frozen=True, kw_only=True):
    """A tokenised file. ``rejected``: how many of its lines are no examples; ``rejected_file`` holds them."""

    dataset: TokenDataset
    key: str
    format: str
    rejected: int
    rejected_file: Path
    made: bool

    def first_rejected(self) -> Rejected | None:
        """The first line that was left out."""
        if not self.rejected:
            return None
        with self.rejected_file.open("rb") as file:
            return msgspec.json.decode(file.readline(), type=Rejected)


class CacheStats(Struct, frozen=True, kw_only=True):
    """What is kept: finished folders and their bytes; what was found, made and removed by this object."""

    folders: int
    bytes: int
    found: int
    made: int
    removed: int


class _Info(Struct, kw_only=True):
    """info.json: written last."""

    source: str
    format: str
    kind: str
    report: Report
    rejected: int
    sizes: dict[str, int]


class TokenCache:
    """Keeps tokenised files. When all together are larger than the limit, those that were used longest ago are removed.

    What is in use is not hurt by that: mapped files live until they are closed. The one that was used last stays, however large it is.

    Args:
        root: The folder; None for TRAINBUS_HOME/cache/tokens.
        limit_bytes: The limit.
        note: Told what a person should know.
    """

    def __init__(self, root: Path | None = None, *, limit_bytes: int, note: Callable[[str], None] | None = None) -> None:
        self._root = root or home() / "cache" / "tokens"
        self._limit = limit_bytes
        self._note = note or (lambda _: None)
        self._found = self._made = self._removed = 0

    def get(self, recipe: Recipe, tokenizer: Any, *, progress: Callable[[float], None] | None = None) -> Tokenised:
        """What the recipe gives: from the disk, or made now and kept there.

        Raises:
            DataError: The data can't be used; the lines that can't are named. Or the disk is full.
        """
        try:
            private_directory(self._root)
            if (found := self._open(recipe)) is None:
                with self._locked(recipe.key):
                    found = self._open(recipe) or self._make(recipe, tokenizer, progress)
            os.utime(self._root / recipe.key / INFO)
            self._evict(recipe.key)
            return found
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "Free some space there, or set TRAINBUS_HOME to a folder on another disk."
            raise DataError(f"Tokenised data can't be kept in {self._root}: {reason}.", hint=hint, file=str(self._root)) from error

    def stats(self) -> CacheStats:
        """Counts so far."""
        sizes = [size for _, size, _ in self._folders()]
        return CacheStats(folders=len(sizes), bytes=sum(sizes), found=self._found, made=self._made, removed=self._removed)

    # -- one file

    def _open(self, recipe: Recipe, *, made: bool = False) -> Tokenised | None:
        """The finished folder; None when there is none, or it is damaged."""
        folder = self._root / recipe.key
        try:
            info = msgspec.json.decode((folder / INFO).read_bytes(), type=_Info)
            if any((folder / name).stat().st_size != size for name, size in info.sizes.items()):
                return None
            dataset = mapped(folder, info.kind, info.report)
        except (OSError, *DECODE_ERRORS):
            return None
        self._found += not made
        return Tokenised(
            dataset=dataset, key=recipe.key, format=info.format, rejected=info.rejected, rejected_file=folder / REJECTED, made=made
        )

    def _make(self, recipe: Recipe, tokenizer: Any, progress: Callable[[float], None] | None) -> Tokenised:
        """Under the lock: nobody else makes this one, so what is there of it is what dead processes left."""
        folder = self._root / recipe.key
        for left in (folder, *self._root.glob(f"{recipe.key}.partial-*")):
            shutil.rmtree(left, ignore_errors=True)
        partial = private_directory(self._root / f"{recipe.key}.partial-{os.getpid()}")
        try:
            _write(partial, recipe, tokenizer, progress)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync(self._root)
        self._made += 1
        found = self._open(recipe, made=True)
        if found is None:
            raise OSError("what was written there can't be read back")
        return found

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with self._lock(key).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._note("another process tokenises this data; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lock(self, key: str) -> Path:
        """There are 256 of them, so none has to be removed, which could not be done without a race."""
        return self._root / f"lock-{key[:2]}"

    # -- all files

    def _folders(self) -> list[tuple[float, int, Path]]:
        """When it was used, its bytes, and the folder, of each finished one."""
        found = []
        for info in self._root.glob(f"*/{INFO}"):
            if ".partial-" not in info.parent.name:
                with suppress(OSError):  # another process removes it just now
                    size = sum(file.stat().st_size for file in info.parent.iterdir())
                    found.append((info.stat().st_mtime, size, info.parent))
        return sorted(found)

    def _evict(self, used: str) -> None:
        folders = self._folders()
        total = sum(size for _, size, _ in folders)
        for _, size, folder in folders:
            if total <= self._limit:
                break
            if folder.name == used:
                continue
            (folder / INFO).unlink(missing_ok=True)  # from now on nobody takes it for whole
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
            self._removed += 1
        self._tidy()

    def _tidy(self) -> None:
        """Remove what processes that died left half made."""
        for left in self._root.glob("*.partial-*"):
            with suppress(OSError), self._lock(left.name).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)


def recipe_of(
    name: str,
    tokenizer: Any,
    max_length: int,
    *,
    tolerant: bool = False,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Recipe:
    """Reads the file once, for its digest.

    Raises:
        DataError: It is missing or can't be read.
    """
    content = Source(name, reading).digest()
    return Recipe(
        name=name, content=content, tokenizer=_digest_of(tokenizer), max_length=max_length, tolerant=tolerant, reading=reading
    )  # fmt: skip


def _digest_of(tokenizer: Any) -> str:
    """All that a tokenizer does to a text."""
    import tokenizers

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    digest = xxhash.xxh3_128(backend.to_str().encode())
    for part in (type(tokenizer).__name__, tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token, tokenizers.__version__):
        digest.update(f"\0{part!r}".encode())
    return digest.hexdigest()


def _write(folder: Path, recipe: Recipe, tokenizer: Any, progress: Callable[[float], None] | None) -> None:
    """Make all files of a folder, and bring them to the disk; info.json comes last."""
    from trainbus.trainer_node.tokens import nothing_to_learn

    with ExitStack() as stack:

        def open_file(name: str) -> BinaryIO:
            return stack.enter_context((folder / name).open("wb"))

        writer = Writer(open_file, len(tokenizer), recipe.max_length)
        rejected = open_file(REJECTED)
        source = Source(
            recipe.name,
            recipe.reading,
            tolerant=recipe.tolerant,
            reject=lambda one: (rejected.write(msgspec.json.encode(one) + b"\n"), None)[1],
            progress=progress,
        )
        tokenise_into(writer, source, tokenizer, source=recipe.name)
    if not writer.report().examples:
        raise nothing_to_learn(writer.report(), recipe.name, recipe.max_length)
    if Source(recipe.name, recipe.reading).digest() != recipe.content:
        raise DataError(f"{recipe.name} has changed while it was read.", hint="Start again when it is whole.", file=recipe.name)
    sizes = {}
    for name in (*KINDS, REJECTED):
        sizes[name] = (folder / name).stat().st_size
        _sync(folder / name)
    info = _Info(
        source=recipe.name, format=source.format, kind=writer.kind, report=writer.report(), rejected=source.rejected, sizes=sizes
    )  # fmt: skip
    (folder / INFO).write_bytes(msgspec.json.encode(info))
    _sync(folder / INFO)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
