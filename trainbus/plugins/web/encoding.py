"""JSON at the page's edge: always valid (see `trainbus.bus.jsonable`), and of bounded size."""

from __future__ import annotations

from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.bus.jsonable import to_jsonable

LARGEST_EVENT = 256 * 1024
"""Bytes of one event in the live stream; of a larger one only its head is sent, with ``clipped``."""

LONGEST_TEXT = 4_000
"""Characters of one text in the answers for the page."""


def to_json(value: Any) -> bytes:
    """Encode an answer; ``not_finite`` on top names the values that JSON can't say by their dotted paths. Long texts are cut."""
    return msgspec.json.encode(_clip(to_jsonable(value)))


def event_json(event: events.AnyEvent) -> bytes:
    """An event for the live stream."""
    encoded = to_json(event)
    if len(encoded) <= LARGEST_EVENT:
        return encoded
    return to_json({"kind": event.kind, "run": event.run, "offset": event.offset, "time": event.time, "clipped": len(encoded)})


def _clip(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"
    if isinstance(value, dict):
        return {key: _clip(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clip(item) for item in value]
    return value
