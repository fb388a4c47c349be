"""Notifications of the file system, so that a file is seen before the daemon's next look."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Watch:
    """Calls ``changed`` when something happens in a folder. A network mount tells nothing: there the daemon's own looks have to do."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="trainbus-inbox", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from watchfiles import watch

        with suppress(OSError):  # no notifications here: the daemon looks by itself
            for _ in watch(self._folder, watch_filter=None, stop_event=self._stop, rust_timeout=500, step=50):
                self._changed()
