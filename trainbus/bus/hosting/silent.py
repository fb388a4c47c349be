"""What stands in for a plugin's publisher where its key only lets it look."""

from __future__ import annotations

import logging

from trainbus.bus.events import Event


class SilentPublisher:
    """Drops what a plugin publishes, and says so once for each kind: the broker would refuse it, and a spool would keep it for ever."""

    def __init__(self, key: str, logger: logging.Logger) -> None:
        self._key = key
        self._logger = logger
        self._told: set[type[Event]] = set()

    def publish(self, event: Event) -> None:
        """Drop it."""
        if type(event) not in self._told:
            self._told.add(type(event))
            self._logger.warning(
                "%s events of this plugin are dropped: the key %r has the role observer, and publishing needs publisher.",
                type(event).__name__,
                self._key,
            )

    def flush(self, timeout: float = 5.0) -> bool:
        """There is nothing to wait for."""
        return True

    def close(self, timeout: float = 5.0) -> bool:
        """There is nothing to wait for."""
        return True
