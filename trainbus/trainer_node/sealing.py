"""Finishes checkpoints in the background: training goes on while their files are digested."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from msgspec import Struct

from trainbus.trainer_node.checkpoints import Marker, seal

log = logging.getLogger(__name__)


class SealerStats(Struct, frozen=True, kw_only=True):
    """Checkpoints so far: whole, failed, and still being digested."""

    sealed: int
    failed: int
    pending: int


class Sealer:
    """One thread that seals directories in the order in which they were written.

    Args:
        done: Called in that thread with path and marker when a checkpoint is whole, or with path and the error when it isn't.
    """

    def __init__(self, done: Callable[[Path, Marker | OSError], None]) -> None:
        self._done = done
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainbus-sealer")
        self._pending: dict[Path, Future[None]] = {}
        self._sealed = self._failed = 0

    def submit(self, path: Path, **facts: Any) -> None:
        """Seal ``path`` soon; ``facts`` as for `checkpoints.seal`. Nothing may write into it until it is done."""
        self._pending = {other: future for other, future in self._pending.items() if not future.done()}
        self._pending[path] = self._thread.submit(self._seal, path, facts)

    def settle(self, path: Path | None = None) -> None:
        """Wait until ``path``, or everything, is done."""
        wait([future for other, future in list(self._pending.items()) if path in (None, other)])

    def close(self) -> None:
        """Wait for everything and end the thread."""
        self._thread.shutdown(wait=True)

    def stats(self) -> SealerStats:
        """Counts so far."""
        return SealerStats(sealed=self._sealed, failed=self._failed, pending=sum(not future.done() for future in self._pending.values()))

    def _seal(self, path: Path, facts: dict[str, Any]) -> None:
        try:
            result: Marker | OSError = seal(path, **facts)
            self._sealed += 1
        except OSError as error:  # deleted meanwhile, or no room for the marker: then it is no checkpoint, and training goes on
            log.warning("checkpoint %s could not be finished: %s", path, error)
            result = error
            self._failed += 1
        self._done(path, result)
