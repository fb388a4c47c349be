"""JSON at the page's edge: always valid. NaN and infinities become null, and a list beside them says where."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from trainbus.bus import events

LARGEST_EVENT = 256 * 1024
"""Bytes of one event in the live stream; of a larger one only its head is sent, with ``clipped``."""

LONGEST_TEXT = 4_000
"""Characters of one text in the answers for the page."""


def to_json(value: Any) -> bytes:
    """Encode an answer; ``not_finite`` on top lists the dotted paths of values that JSON can't say."""
    missing: list[str] = []
    plain = _plain(value, "", missing)
    if missing and isinstance(plain, dict):
        plain = plain | {"not_finite_paths": missing}
    return msgspec.json.encode(plain)


def event_json(event: events.AnyEvent) -> bytes:
    """An event for the live stream."""
    head = {"kind": event.kind, "run": event.run, "offset": event.offset, "time": event.time}
    if isinstance(event, events.Other):
        body = head | event.fields
    else:
        body = head | {name: msgspec.to_builtins(getattr(event, name)) for name in event.__struct_fields__}
    encoded = to_json(body)
    return encoded if len(encoded) <= LARGEST_EVENT else to_json(head | {"clipped": len(encoded)})


def _plain(value: Any, path: str, missing: list[str]) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        missing.append(path)
        return None
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{path}.{key}" if path else str(key), missing) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, f"{path}.{index}" if path else str(index), missing) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)
