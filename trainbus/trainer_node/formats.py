"""The row formats of fine-tuning files, and what each means as a conversation.

A file has one format, told by the keys of its first row; every further row must have it too. `RowError` is what is wrong
with one row, in words; `trainbus.trainer_node.data` adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class Turn(Struct, frozen=True):
    """One message of a conversation."""

    role: Role
    content: str


class Example(Struct, frozen=True):
    """One training example: a conversation, or plain text (then ``turns`` is empty). ``id`` is the row's own, where it has one."""

    turns: tuple[Turn, ...] = ()
    text: str = ""
    line: int = 0
    id: str = ""


class RowError(Exception):
    """A row that does not fit its format: what was found, what is allowed, and the line itself where it is no JSON."""

    def __init__(self, what: str, *, found: str, allowed: str, raw: str = "") -> None:
        super().__init__(what)
        self.raw = raw
        self.what = what
        self.found = found
        self.allowed = allowed


# ShareGPT files name speakers in several ways; these are the ones in use.
SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


def _text(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        found = "nothing" if key not in row else type_name(value)
        raise RowError(f"key {key!r} holds {found}", found=found, allowed="text")
    if not value.strip() and not empty:
        raise RowError(f"key {key!r} is empty", found="empty text", allowed="text")
    return value


def _conversation(turns: list[Turn]) -> Example:
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(
            "no assistant turn: there is nothing to learn", found=", ".join(turn.role for turn in turns), allowed="an assistant turn"
        )
    return Example(turns=tuple(turns))


def _listed(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = row[key]
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type_name(value)
        raise RowError(f"key {key!r} holds {found}", found=found, allowed="a list of turns")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise RowError(f"turn {number} of {key!r} is {type_name(turn)}", found=type_name(turn), allowed="an object")
    return value


def _messages(row: Mapping[str, Any]) -> Example:
    turns = []
    for turn in _listed(row, "messages"):
        if turn.get("role") not in ROLES:
            raise RowError(f"role {turn.get('role')!r} is unknown", found=repr(turn.get("role")), allowed=", ".join(ROLES))
        turns.append(Turn(turn["role"], _text(turn, "content", empty=turn["role"] != "assistant")))
    return _conversation(turns)


def _sharegpt(row: Mapping[str, Any]) -> Example:
    turns = []
    for turn in _listed(row, "conversations"):
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker.lower() not in SPEAKERS:
            raise RowError(f"speaker {speaker!r} is unknown", found=repr(speaker), allowed=", ".join(SPEAKERS))
        role = SPEAKERS[speaker.lower()]
        turns.append(Turn(role, _text(turn, "value", empty=role != "assistant")))
    return _conversation(turns)


def _pair(asked: str, answered: str) -> Callable[[Mapping[str, Any]], Example]:
    def convert(row: Mapping[str, Any]) -> Example:
        return Example(turns=(Turn("user", _text(row, asked)), Turn("assistant", _text(row, answered))))

    return convert


def _alpaca(row: Mapping[str, Any]) -> Example:
    asked = _text(row, "instruction")
    extra = _text(row, "input", empty=True) if row.get("input") is not None else ""
    turns = [Turn("user", f"{asked}\n\n{extra}" if extra.strip() else asked), Turn("assistant", _text(row, "output"))]
    return Example(turns=tuple(turns))


def _plain(row: Mapping[str, Any]) -> Example:
    return Example(text=_text(row, "text"))


Schema: TypeAlias = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text"]
"""Names of the formats, as settings and rows have them; ``auto``: the keys of the first row tell."""
SCHEMA_KEY = "$schema"
"""A row may name its format by this key. A name that is not known is refused, whatever else the row holds."""


class Format(Struct, frozen=True):
    """A row format: its name as settings have it, its name for people, the keys that tell it, and its meaning."""

    schema: Schema
    name: str
    keys: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Example]


# In this order: a row with "messages" beside other columns is a conversation, whatever the other columns are called.
FORMATS: tuple[Format, ...] = (
    Format("messages", "messages", ("messages",), _messages),
    Format("sharegpt", "ShareGPT", ("conversations",), _sharegpt),
    Format("alpaca", "alpaca", ("instruction", "output"), _alpaca),
    Format("prompt_completion", "prompt and completion", ("prompt", "completion"), _pair("prompt", "completion")),
    Format("question_answer", "question and answer", ("question", "answer"), _pair("question", "answer")),
    Format("text", "text", ("text",), _plain),
)
ID_KEYS = ("id", "uuid", "example_id")
"""Where rows carry a name of their own."""
ALLOWED = "; ".join(" + ".join(known.keys) for known in FORMATS)


BY_SCHEMA: Mapping[str, Format] = {known.schema: known for known in FORMATS}


def type_name(value: Any) -> str:
    """How a person calls a JSON value's type."""
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), "a number")


def detect(row: Mapping[str, Any]) -> Format:
    """The format that has all its keys in ``row``.

    Raises:
        RowError: No format fits.
    """
    for known in FORMATS:
        if all(key in row for key in known.keys):
            return known
    found = ", ".join(list(row)[:12]) or "no keys"
    raise RowError(f"no known format has the keys {found}", found=found, allowed=ALLOWED)


def declared(row: Mapping[str, Any], wanted: Schema = "auto") -> Format | None:
    """The format that the row names, or that is wanted of all rows; None when neither says.

    Raises:
        RowError: The row names an unknown format, or another one than is wanted.
    """
    said = row.get(SCHEMA_KEY)
    if said is None:
        return BY_SCHEMA.get(wanted)
    known = BY_SCHEMA.get(said) if isinstance(said, str) else None
    if known is None:
        raise RowError(f"{SCHEMA_KEY} {said!r} is unknown", found=repr(said), allowed=", ".join(BY_SCHEMA))
    if wanted not in ("auto", known.schema):
        raise RowError(f"{SCHEMA_KEY} {said!r} in data of the format {wanted!r}", found=repr(said), allowed=wanted)
    return known


def own_id(row: Mapping[str, Any]) -> str:
    """The name that a row has in its data set; empty when it has none."""
    found = next((row[key] for key in ID_KEYS if isinstance(row.get(key), str | int) and not isinstance(row[key], bool)), "")
    return str(found)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """A row under the names that formats know.

    Args:
        columns: A format's key → the row's own name for it. Keys of turns (``role``, ``content``, ``from``, ``value``) may be among them.
    """
    there = {known: row[own] for known, own in columns.items() if own in row}
    merged = {**row, **there}
    for key in ("messages", "conversations"):
        if isinstance(merged.get(key), list):
            merged[key] = [renamed(turn, columns) if isinstance(turn, dict) else turn for turn in merged[key]]
    return merged
