"""A plugin's small durable state: a dict whose changes are committed together with the cursor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import PluginError

_IMMUTABLE = (str, bytes, int, float, bool, type(None))

StateBatch = dict[str, bytes | None]
"""Changes as the broker takes them: msgpack by key, None for a deleted key."""


class StateStore(MutableMapping[str, Any]):
    """``context.state``.

    A list or dict that was once handed out is compared with what was stored at every commit, so changing it in place is kept
    as well as assigning it. Values come back from the journal as msgpack has them: tuples and sets as lists, Structs as dicts.

    Raises:
        PluginError: What is stored can't be read.
    """

    def __init__(self, stored: Mapping[str, bytes], logger: logging.Logger, changed: Callable[[], None] = lambda: None) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._values: dict[str, Any] = {key: _decoded(key, value) for key, value in stored.items()}
        self._stored: dict[str, bytes] = dict(stored)
        self._written: set[str] = set()
        self._handed_out: set[str] = set()
        self._unsent: StateBatch = {}
        self._logger = logger
        self._changed = changed

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if not isinstance(value, _IMMUTABLE):
            self._handed_out.add(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"A key of context.state is a str, not {type(key).__name__}: {key!r}")
        self._values[key] = value
        if not isinstance(value, _IMMUTABLE):
            self._handed_out.add(key)  # the plugin still holds it and may change it in place
        self._written.add(key)
        self._changed()

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._handed_out.discard(key)
        self._written.add(key)
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"StateStore({self._values!r})"

    def stage(self) -> StateBatch:
        """Everything that changed since it was last `saved`. Call it between events: a hook half way is no state."""
        for key in self._written | self._handed_out:
            if key not in self._values:
                if self._stored.pop(key, None) is not None:
                    self._unsent[key] = None
                continue
            try:
                encoded = self._encoder.encode(self._values[key])
            except (TypeError, ValueError, OverflowError) as error:
                self._logger.error("context.state[%r] can't be stored and is lost at the next start: %s", key, error)  # noqa: TRY400 - one line
                continue
            if self._stored.get(key) != encoded:
                self._stored[key] = self._unsent[key] = encoded
        self._written.clear()
        return dict(self._unsent)

    def saved(self, batch: StateBatch) -> None:
        """These changes are durable; what changed again meanwhile stays to be sent."""
        for key, value in batch.items():
            if key in self._unsent and self._unsent[key] == value:
                del self._unsent[key]


def _decoded(key: str, value: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(value)
    except DECODE_ERRORS as error:
        raise PluginError(
            f"What this plugin keeps under {key!r} in the journal can't be read: {error}.",
            hint="Stop the plugin and forget its state with `trainbus cursors drop`; it then begins anew. Or restore the journal.",
            key=key,
        ) from error
