"""What a run says about itself: its id, its config as plain values, its checkpoints' sizes. Nothing here raises."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

_PLAIN_DEPTH = 20
_UNSAFE = re.compile(r"[^\w.@+=-]+")


def safe_run_id(run: str) -> str:
    """A run id that can stand in a topic, a file name and a shell word."""
    return _UNSAFE.sub("-", run).strip("-") or "run"


def default_run_id(name: str) -> str:
    """Name, local time and a random part; ranks that one torchrun started on one machine get the same."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        parts = (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"), os.environ.get("TORCHELASTIC_RUN_ID"), _parent())
        return safe_run_id(f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:10]}")
    return safe_run_id(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}")


def _parent() -> tuple[int, str]:
    """The launcher: its pid and start time, which together are never used twice."""
    parent = os.getppid()
    try:
        return parent, Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return parent, ""


def plain(value: Any, depth: int = 0) -> Any:
    """The value in terms of msgpack and JSON: what they don't know becomes its repr, also what lies too deep."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else repr(value)
    if depth < _PLAIN_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, depth + 1) for item in value]
    try:
        return os.fspath(value) if isinstance(value, os.PathLike) else repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def whole(value: Any) -> Any:
    """The value as an int when it is a whole number of another type (numpy's, a tensor's); else as it is, for the publisher to refuse."""
    try:
        return int(value) if int(value) == value else value
    except Exception:  # noqa: BLE001 - anything can be given as a step
        return value


def absolute_path(path: str | os.PathLike[str]) -> str:
    """The path from the root, without following links: a `latest` link keeps its name. As it is when there is no working directory."""
    try:
        return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
    except (OSError, TypeError):
        return str(path)


def directory_facts(name: str) -> tuple[int | None, str]:
    """Bytes of a file or of all files in a directory, and a digest of their names, sizes and times; (None, "") when it is not there."""
    digest, size, found = hashlib.sha256(), 0, False
    path = Path(name)
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        try:
            stat = file.stat()
        except OSError:  # a dangling link, or a file that is just being removed
            continue
        if S_ISREG(stat.st_mode):
            found = True
            size += stat.st_size
            digest.update(os.fsencode(file.relative_to(path)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return (size, digest.hexdigest()) if found else (None, "")
