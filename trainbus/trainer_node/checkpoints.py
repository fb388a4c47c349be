"""When a checkpoint directory is whole, what it is called, and which one a job resumes from.

Trainer writes ``checkpoint-N`` in place, so its presence says nothing. A checkpoint is whole when it has a marker: a file with
the digest and size of every other file, written atomically after all of them. Without a marker a directory is what a killed
process left behind.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import xxhash

from trainbus.bus.events import DECODE_ERRORS, MARKER, checkpoint_id
from trainbus.bus.home import write_atomically
from trainbus.errors import ModelError

RUN_FILE = "trainbus_run.json"
CHUNK_BYTES = 1 << 20

RESUMABLE: tuple[tuple[str, ...], ...] = (
    ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "adapter_model.bin", "pytorch_model.bin"),
    ("optimizer.pt",),
    ("scheduler.pt",),
    ("trainer_state.json",),
    ("rng_state.pth", "rng_state_0.pth"),
)
"""One file of each row must be there to go on where a training stopped."""
FSDP: tuple[tuple[str, ...], ...] = (
    ("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp.bin"),
    ("optimizer_0/.metadata", "optimizer.bin"),
    *RESUMABLE[2:],
)
"""The same for a checkpoint that FSDP has written: as folders of shards, whose ``.metadata`` come last, or as one file. Shards of single
ranks without metadata, as its local form has them, can't be gone on from."""


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a checkpoint: its size, and the hex xxh3-128 of its content."""

    bytes: int
    xxh3: str


class Marker(msgspec.Struct, kw_only=True, frozen=True):
    """What makes a checkpoint whole. ``files`` are by path relative to the directory; the digest is over all of them.

    ``positions``: in a continuous training, how many examples of each unfinished job the weights have seen.
    """

    id: str
    run: str
    name: str = ""
    step: int
    digest: str
    created: int
    examples: int = 0
    tokens: int = 0
    positions: dict[str, int] = {}
    files: dict[str, FileEntry]

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.files.values())


class RunFile(msgspec.Struct, kw_only=True):
    """What an output directory says of its run, so that a resumed job goes on under the same id."""

    run: str
    name: str
    model: str = ""
    method: str = ""
    max_length: int = 0


def seal(
    path: Path, *, run: str, name: str, step: int, examples: int = 0, tokens: int = 0, positions: Mapping[str, int] | None = None
) -> Marker:
    """Make a finished directory a checkpoint: digest its files, bring them to the disk, write the marker.

    Raises:
        OSError: A file can't be read or the marker not written; the directory then is no checkpoint.
    """
    files = {relative: _digest(path / relative) for relative in _files(path)}
    whole = xxhash.xxh3_128()
    for relative, entry in files.items():
        whole.update(f"{relative}\0{entry.bytes}\0{entry.xxh3}\n".encode())
    digest = whole.hexdigest()
    marker = Marker(
        id=checkpoint_id(run, step, digest),
        run=run,
        name=name,
        step=step,
        digest=digest,
        created=time.time_ns(),
        examples=examples,
        tokens=tokens,
        positions=dict(positions or {}),
        files=files,
    )
    write_atomically(path / MARKER, msgspec.json.format(msgspec.json.encode(marker), indent=1), mode=0o644)
    return marker


def unseal(path: Path) -> None:
    """Take the marker away before a directory is written again."""
    (path / MARKER).unlink(missing_ok=True)


def read_marker(path: Path) -> Marker | None:
    """The marker of a directory; None when there is none that can be read."""
    try:
        return msgspec.json.decode((path / MARKER).read_bytes(), type=Marker)
    except (OSError, *DECODE_ERRORS):
        return None


def faults(path: Path, *, contents: bool = False) -> list[str]:
    """Why a directory is no whole checkpoint, in words; empty when it is one.

    Args:
        contents: Also read all files and compare their digests.
    """
    marker = read_marker(path)
    if marker is None:
        return [f"{MARKER} is missing: it was never finished", *missing_files(path)]
    found = []
    for relative, entry in marker.files.items():
        try:
            size = (path / relative).stat().st_size
        except OSError:
            found.append(f"{relative} is missing")
            continue
        if size != entry.bytes:
            found.append(f"{relative} has {size:,} bytes instead of {entry.bytes:,}")
        elif contents and _digest(path / relative) != entry:
            found.append(f"{relative} has changed")
    return found + [missing for missing in missing_files(path) if missing not in found]


def missing_files(path: Path) -> list[str]:
    """What a directory lacks to resume from."""
    rows = FSDP if is_fsdp(path) else RESUMABLE
    return [f"{' or '.join(row[:2])} is missing" for row in rows if not any((path / name).is_file() for name in row)]


def is_fsdp(path: Path) -> bool:
    """Whether FSDP has written a checkpoint."""
    return next(path.glob("pytorch_model_fsdp*"), None) is not None


def processes_of(path: Path) -> int:
    """How many processes have written a checkpoint: each its random numbers."""
    return max(1, len(list(path.glob("rng_state_*.pth"))))


def listed(output: Path) -> list[Path]:
    """The ``checkpoint-N`` directories of an output, by number: 999 comes before 1000."""
    numbered = [
        (step, child) for child in (output.iterdir() if output.is_dir() else ()) if (step := step_of(child)) is not None and child.is_dir()
    ]
    return [child for _, child in sorted(numbered)]


def step_of(path: Path) -> int | None:
    """The number in ``checkpoint-N``; None for other names."""
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else None


def choose(output: Path) -> tuple[Path, list[Path]]:
    """The checkpoint to resume from, and newer directories that were never finished and are passed over.

    A directory without a marker is what a killed process left of a save: older whole checkpoints are the training's true
    state. One that was whole and is damaged now is another matter: going back behind it is for a person to decide.

    Raises:
        ModelError: There is none, or the newest is damaged; it says what is missing and which older one is whole.
    """
    candidates = listed(output)
    if not candidates:
        raise ModelError(f"{output} has no checkpoint to resume from.", hint="Leave --resume out to start afresh.", file=str(output))
    unfinished: list[Path] = []
    for path in reversed(candidates):
        if (path / MARKER).is_file():
            require_whole(path)
            return path, unfinished
        unfinished.append(path)
    newest = candidates[-1]
    missing = faults(newest)
    problem = f"No checkpoint in {output} is whole. The newest, {newest.name}: {'; '.join(missing)}."
    hint = "Leave --resume out and choose another output to start afresh."
    if not missing_files(newest):
        hint = f"It may have been written by another program: `--resume-from {newest}` takes it as it is."
    raise ModelError(problem, hint=hint, file=str(newest), missing=missing)


def require_whole(path: Path) -> None:
    """Refuse a checkpoint that can't be resumed from. One without a marker passes when it has all the files that resuming needs.

    Raises:
        ModelError: It names what is missing, and the next older checkpoint that is whole.
    """
    if not path.is_dir():
        raise ModelError(
            f"There is no checkpoint directory {path}.", hint="`ls` the output directory for those that exist.", file=str(path)
        )
    missing = faults(path) if (path / MARKER).is_file() else missing_files(path)
    if not missing:
        return
    step = step_of(path)
    older = [other for other in listed(path.parent) if step is not None and (step_of(other) or 0) < step and not faults(other)]
    hint = (
        f"The next older whole one is {older[-1].name}: --resume-from {older[-1]}"
        if older
        else "No older checkpoint is whole: start afresh without --resume."
    )
    offered = str(older[-1]) if older else None
    raise ModelError(f"{path} is incomplete: {'; '.join(missing)}.", hint=hint, file=str(path), missing=missing, offered=offered)


def write_run_file(output: Path, content: RunFile) -> None:
    """Say whose output this is."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / RUN_FILE, msgspec.json.format(msgspec.json.encode(content), indent=1), mode=0o644)


def read_run_file(output: Path) -> RunFile | None:
    """Whose output this is; None when it does not say."""
    try:
        return msgspec.json.decode((output / RUN_FILE).read_bytes(), type=RunFile)
    except (OSError, *DECODE_ERRORS):
        return None


def _files(path: Path) -> Iterator[str]:
    """Relative paths of all files in a stable order, without the marker and the temporary files of its writing."""
    for child in sorted(path.rglob("*")):
        relative = child.relative_to(path).as_posix()
        if child.is_file() and relative != MARKER and not child.name.startswith(f".{MARKER}."):
            yield relative


def _digest(path: Path) -> FileEntry:
    state = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as file:
        os.fsync(file.fileno())  # whole must also mean whole after a power failure
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            size += len(chunk)
    return FileEntry(size, state.hexdigest())
