"""Events and answers as what JSON can say.

JSON has no NaN and no infinities, which training does produce: they become null, and ``not_finite`` beside them says at which dotted
paths which one stood. All fields are written, those that hold their default too: who reads JSON hasn't our defaults.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec

from trainbus.bus.events import Other

NOT_FINITE = "not_finite"


def to_jsonable(value: Any) -> Any:
    """Dicts, lists, strings, numbers, booleans and None. The flag stands on the outermost object that is a dict."""
    lost: dict[str, str] = {}
    plain = _plain(value, "", lost)
    if not lost:
        return plain
    if isinstance(plain, dict):
        return {**plain, NOT_FINITE: lost}
    if isinstance(value, list | tuple):
        return [to_jsonable(part) for part in value]
    return plain


def to_json(value: Any) -> bytes:
    """One line of JSON, always valid."""
    return msgspec.json.encode(to_jsonable(value))


def _plain(value: Any, path: str, lost: dict[str, str]) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        lost[path] = str(value)
        return None
    if isinstance(value, Other):
        return {**_fields(value, path, lost, without="fields"), **_plain(value.fields, path, lost)}
    if isinstance(value, msgspec.Struct):
        return _fields(value, path, lost)
    if isinstance(value, dict):
        return {str(key): _plain(part, f"{path}.{key}" if path else str(key), lost) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part, f"{path}.{index}" if path else str(index), lost) for index, part in enumerate(value)]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _fields(value: msgspec.Struct, path: str, lost: dict[str, str], without: str = "") -> dict[str, Any]:
    tag = value.__struct_config__.tag_field
    made = {tag: value.__struct_config__.tag} if tag else {}
    for name in value.__struct_fields__:
        if name != without:
            made[name] = _plain(getattr(value, name), f"{path}.{name}" if path else name, lost)
    return made
