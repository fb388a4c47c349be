"""Checks plain data (from TOML) against a msgspec Struct and finds all mistakes, not only the first.

msgspec itself stops at the first and speaks of types; a person who edits a file wants every mistake, with what is allowed in words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect as types


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong setting: ``key`` is its dotted path, ``found`` and ``allowed`` are words, ``nearest`` the name that was meant."""

    key: str
    found: str
    allowed: str
    nearest: str = ""
    unknown: bool = False

    def sentence(self) -> str:
        """The mistake as people read it."""
        if self.unknown:
            return f"there is no setting `{self.key}`. " + (
                f"Did you mean `{self.nearest}`?" if self.nearest else f"Allowed here: {self.allowed}"
            )
        return f"`{self.key}` is {self.found}, but must be {self.allowed}"


def mistakes(data: Any, schema: Any, path: str = "") -> list[Mistake]:
    """Everything in ``data`` that the Struct (or other type) ``schema`` doesn't allow, in the order of the data."""
    found = list(_walk(data, types.type_info(schema), path))
    if not found:
        try:
            msgspec.convert(data, schema)
        except msgspec.ValidationError as error:  # what a Struct's __post_init__ refuses
            found.append(Mistake(key=path or "the file", found="refused", allowed=f"otherwise: {error}"))
    return found


def _walk(value: Any, kind: types.Type, path: str) -> Iterator[Mistake]:
    if isinstance(kind, types.Metadata):
        kind = kind.type
    if isinstance(kind, types.UnionType):
        kind = _branch(value, kind)
    if isinstance(kind, types.StructType) and isinstance(value, dict):
        yield from _walk_struct(value, kind, path)
    elif isinstance(kind, types.DictType) and isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, kind.value_type, _join(path, key))
    elif isinstance(kind, types.ListType | types.SetType | types.VarTupleType) and isinstance(value, list):
        before = [item for index, inner in enumerate(value) for item in _walk(inner, kind.item_type, f"{path}[{index}]")]
        yield from before or _leaf(value, kind, path)
    else:
        yield from _leaf(value, kind, path)


def _walk_struct(value: dict[str, Any], kind: types.StructType, path: str) -> Iterator[Mistake]:
    fields = {field.encode_name: field for field in kind.fields}
    known = [*fields, *([kind.tag_field] if kind.tag_field else [])]
    for key, inner in value.items():
        if key in fields:
            yield from _walk(inner, fields[key].type, _join(path, key))
        elif key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            allowed = ", ".join(sorted(known)) or "nothing"
            yield Mistake(
                key=_join(path, key), found=show(inner), allowed=allowed, nearest=_join(path, near[0]) if near else "", unknown=True
            )
    for name, field in fields.items():
        if field.required and name not in value:
            yield Mistake(key=_join(path, name), found="missing", allowed=f"set to {words(field.type)}")


def _branch(value: Any, union: types.UnionType) -> types.Type:
    """The member of a union that the value was meant to be, where its shape tells; else the union."""
    structs = [kind for kind in union.types if isinstance(kind, types.StructType)]
    if isinstance(value, dict):
        tagged = [kind for kind in structs if kind.tag_field and value.get(kind.tag_field) == kind.tag]
        others = [kind for kind in union.types if isinstance(kind, types.DictType)]
        chosen = tagged or (structs if len(structs) == 1 else []) or others
        return chosen[0] if chosen else union
    lists = [kind for kind in union.types if isinstance(kind, types.ListType)]
    return lists[0] if isinstance(value, list) and lists else union


def _leaf(value: Any, kind: types.Type, path: str) -> Iterator[Mistake]:
    if not _fits(value, kind):
        yield Mistake(key=path, found=show(value), allowed=words(kind))


def _fits(value: Any, kind: types.Type) -> bool:
    """As msgspec judges, told from the description instead of from the annotation (which a union's branch no longer has)."""
    if isinstance(kind, types.AnyType):
        return True
    if isinstance(kind, types.UnionType):
        return any(not list(_walk(value, member, "")) for member in kind.types)
    if isinstance(kind, types.NoneType):
        return value is None
    if isinstance(kind, types.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, types.LiteralType):
        return any(value == allowed and type(value) is type(allowed) for allowed in kind.values)
    if isinstance(kind, types.EnumType):
        return value in [member.value for member in kind.cls]
    if isinstance(kind, types.IntType):
        return isinstance(value, int) and not isinstance(value, bool) and _in_range(value, kind)
    if isinstance(kind, types.FloatType):
        return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(value, kind)
    if isinstance(kind, types.StrType):
        return isinstance(value, str) and _long_enough(value, kind) and (kind.pattern is None or _matches(value, kind.pattern))
    if isinstance(kind, types.ListType | types.SetType | types.VarTupleType):
        return isinstance(value, list) and _long_enough(value, kind)
    if isinstance(kind, types.DictType | types.StructType):
        return isinstance(value, dict)
    return True  # dates, tuples and the like: msgspec judges them at the end


def _in_range(value: float, kind: types.IntType | types.FloatType) -> bool:
    checks: tuple[tuple[float | None, Callable[[float, float], bool]], ...] = (
        (kind.gt, lambda one, other: one > other),
        (kind.ge, lambda one, other: one >= other),
        (kind.lt, lambda one, other: one < other),
        (kind.le, lambda one, other: one <= other),
        (kind.multiple_of, lambda one, other: one % other == 0),
    )
    return all(limit is None or holds(value, limit) for limit, holds in checks)


def _long_enough(value: Sequence[Any], kind: Any) -> bool:
    return (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)


def _matches(value: str, pattern: str) -> bool:
    return re.search(pattern, value) is not None


def words(kind: types.Type) -> str:
    """A type as people say it: ``a number above 0, at most 86400``."""
    if isinstance(kind, types.Metadata):
        return words(kind.type)
    if isinstance(kind, types.LiteralType):
        return _either([show(value) for value in kind.values])
    if isinstance(kind, types.EnumType):
        return _either([show(member.value) for member in kind.cls])
    if isinstance(kind, types.UnionType):
        return _either([words(member) for member in kind.types if not isinstance(member, types.NoneType)])
    if isinstance(kind, types.IntType | types.FloatType):
        limits = ((kind.gt, "above"), (kind.ge, "at least"), (kind.lt, "below"), (kind.le, "at most"), (kind.multiple_of, "a multiple of"))
        said = [f"{word} {limit:,}" for limit, word in limits if limit is not None]
        return " ".join(["a whole number" if isinstance(kind, types.IntType) else "a number", " and ".join(said)]).strip()
    if isinstance(kind, types.ListType | types.SetType | types.VarTupleType):
        item = words(kind.item_type)
        return f"a list, each item {item}" + (f" ({kind.min_length} or more)" if kind.min_length else "")
    if isinstance(kind, types.DictType):
        return "a table" if isinstance(kind.value_type, types.AnyType) else f"a table, each value {words(kind.value_type)}"
    if isinstance(kind, types.StrType):
        return "a text" + (f" matching {kind.pattern}" if kind.pattern else "") + (" that is not empty" if kind.min_length else "")
    names: dict[type[types.Type], str] = {types.BoolType: "true or false", types.StructType: "a table", types.AnyType: "anything"}
    return names.get(type(kind), type(kind).__name__.removesuffix("Type").lower())


def show(value: Any) -> str:
    """A value as it would stand in the file, cut when it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else "a table" if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _join(path: str, key: str) -> str:
    plain = key.replace("_", "").replace("-", "").isalnum()
    part = key if plain else f'"{key}"'
    return f"{path}.{part}" if path else part
