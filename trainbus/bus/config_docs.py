"""What each setting is, read from the Structs: name, type in words, default, meaning. For ``init``, ``config show`` and the docs."""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec
from msgspec import inspect as types

from trainbus.bus.validation import words


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. ``default`` is a plain value; ``required``: there is none."""

    name: str
    allowed: str
    default: Any = None
    required: bool = False
    meaning: str = ""


def settings(schema: type[msgspec.Struct]) -> list[Setting]:
    """The settings of a section, in its order; what they mean is in ``Meta(description=...)`` or the docstring's ``Args:``."""
    described = types.type_info(schema)
    assert isinstance(described, types.StructType)
    told = _arguments(inspect.getdoc(schema) or "")
    return [_setting(field, told.get(field.name, "")) for field in described.fields]


def toml_value(value: Any) -> str:
    """A plain value as TOML; None, which TOML lacks, as an empty string for use in comments."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(docstring: str) -> dict[str, str]:
    """The ``Args:`` of a docstring, each on one line."""
    listed = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(meaning.split()).replace("``", "`") for name, meaning in found}


def _setting(field: types.Field, told: str) -> Setting:
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    required = default is msgspec.NODEFAULT
    return Setting(
        name=field.encode_name,
        allowed=words(field.type),
        default=None if required else msgspec.to_builtins(default),
        required=required,
        meaning=_description(field.type) or told,
    )


def _description(kind: types.Type) -> str:
    if isinstance(kind, types.UnionType):
        return next((said for member in kind.types if (said := _description(member))), "")
    if isinstance(kind, types.Metadata):
        return str((kind.extra_json_schema or {}).get("description", "")) or _description(kind.type)
    return ""
