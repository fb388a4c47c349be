"""The JSON Schema of events as they leave every JSON edge (``--json``, exports, the dashboard)."""

from __future__ import annotations

from typing import Any

import msgspec

from trainbus.bus.events import BY_KIND

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_schema(kind: str) -> dict[str, Any]:
    """The schema of one kind.

    Numbers may be null: JSON has no NaN and no infinities, which training does produce. Fields that the schema doesn't know are
    allowed: a later version may add some.

    Raises:
        KeyError: There is no such kind.
    """
    schema = msgspec.json.schema(BY_KIND[kind])
    return {"$schema": DIALECT, **_nullable_numbers(schema)}


def all_schemas() -> dict[str, Any]:
    """One schema that accepts every known kind, told apart by ``kind``."""
    _, components = msgspec.json.schema_components(list(BY_KIND.values()), ref_template="#/$defs/{name}")
    alternatives = [{"$ref": f"#/$defs/{cls.__name__}"} for cls in BY_KIND.values()]
    return {"$schema": DIALECT, "title": "trainbus event", "oneOf": alternatives, "$defs": _nullable_numbers(components)}


def _nullable_numbers(part: Any) -> Any:
    if isinstance(part, list):
        return [_nullable_numbers(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    changed = {key: _nullable_numbers(inner) for key, inner in part.items()}
    if changed.get("type") == "number":
        changed["type"] = ["number", "null"]
    if isinstance(changed.get("default"), float) and changed["default"] != changed["default"]:  # NaN is no JSON
        changed["default"] = None
    return changed
