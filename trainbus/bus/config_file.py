"""Finds, reads, merges and checks `trainbus.toml`.

Later beats earlier: defaults, the file, the environment (``TRAINBUS__BUS__LOST_AFTER=30``: the key path in capitals, parts joined by two
underscores), ``--set bus.lost_after=30``. Values in the environment and after ``--set`` are TOML; what is no TOML is taken as text, so
that ``--set bus.bind=0.0.0.0`` needs no quotes.
"""

from __future__ import annotations

import datetime
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from trainbus.bus.config import Config
from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.validation import Mistake, mistakes
from trainbus.errors import ConfigError

FILE_NAME = "trainbus.toml"
FILE_VARIABLE = "TRAINBUS_CONFIG"
VARIABLE_PREFIX = "TRAINBUS__"

S = TypeVar("S", bound=msgspec.Struct)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a value came from. ``source``: default, file, environment or --set; ``where``: file and line, variable, or option."""

    source: str
    where: str = ""
    line: int | None = None


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A checked configuration. ``origins`` has the dotted path of every value that isn't a default."""

    config: Config
    file: Path | None
    origins: dict[str, Origin]

    def origin(self, key: str) -> Origin:
        """Where the value at a dotted path came from."""
        return self.origins.get(key, Origin(source="default"))

    def values(self) -> dict[str, Any]:
        """All values by dotted path, defaults included."""
        return dict(flatten(msgspec.to_builtins(self.config)))

    def section(self, path: str, schema: type[S]) -> S:
        """A checked section, e.g. ``section("plugin.anomaly", AnomalyConfig)``; one that isn't in the file gives the defaults.

        Raises:
            ConfigError: Something in it isn't allowed.
        """
        first, _, name = path.partition(".")
        data = self.config.trainer if first == "trainer" else self.config.plugin.get(name, {})
        return validate_section(data, schema, path, file=self.file, origins=self.origins)


def find(path: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Path | None:
    """The configuration file: ``path``, else TRAINBUS_CONFIG, else ./trainbus.toml; None when there is none.

    Raises:
        ConfigError: A file was named that doesn't exist.
    """
    named = (os.environ if environment is None else environment).get(FILE_VARIABLE)
    chosen = path or (Path(named).expanduser() if named else None)
    if chosen is None:
        return Path(FILE_NAME) if Path(FILE_NAME).is_file() else None
    if not chosen.is_file():
        by = "" if path else f" ({FILE_VARIABLE} names it)"
        raise ConfigError(f"There is no configuration file {chosen}{by}.", hint="`trainbus init` writes one.", file=str(chosen))
    return chosen


def load(path: Path | None = None, *, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Loaded:
    """The configuration that holds here.

    Args:
        path: The file; None: look for one (`find`).
        overrides: ``key.path=value`` each, as after ``--set``.
        environment: By default the process's own.

    Raises:
        ConfigError: The file can't be read, or settings are unknown, of the wrong type or out of range (all are named).
    """
    variables = os.environ if environment is None else environment
    file = find(path, environment=variables)
    data: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    if file is not None:
        text = _read(file)
        data = _parse(text, file)
        origins = _file_origins(text, data, file)
    for variable in sorted(name for name in variables if name.startswith(VARIABLE_PREFIX)):
        parts = variable.removeprefix(VARIABLE_PREFIX).lower().split("__")
        _put(data, origins, parts, parse_value(variables[variable]), Origin(source="environment", where=variable))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override} is no KEY=VALUE.", hint="For example: --set bus.lost_after=30", found=override)
        _put(data, origins, split_key(key.strip()), parse_value(value.strip()), Origin(source="--set", where=f"--set {override}"))
    refuse(mistakes(data, Config), file=file, origins=origins)
    return Loaded(config=msgspec.convert(data, Config), file=file, origins=origins)


def file_origins(file: Path) -> dict[str, Origin]:
    """Where the keys of a file stand, for messages about a section that was read elsewhere; empty when it can't be read any more."""
    try:
        text = _read(file)
        return _file_origins(text, _parse(text, file), file)
    except ConfigError:
        return {}


def _file_origins(text: str, data: Mapping[str, Any], file: Path) -> dict[str, Origin]:
    lines = key_lines(text)
    origins = {}
    for key, value in flatten(data):
        if value != {}:  # an empty section sets nothing
            line = _line_of(key, lines)
            origins[key] = Origin(source="file", where=f"{file}:{line}" if line else str(file), line=line)
    return origins


def validate_section(
    data: Mapping[str, Any], schema: type[S], path: str, *, file: Path | None = None, origins: Mapping[str, Origin] | None = None
) -> S:
    """Check a section against its owner's Struct; unknown keys are refused even where the Struct would pass them over.

    Args:
        data: The section as read.
        schema: The Struct.
        path: The section's dotted path, for messages: ``plugin.anomaly``.
        file: The file that it came from.
        origins: Of `Loaded`, so that messages can name lines.

    Raises:
        ConfigError: With every mistake.
    """
    refuse(mistakes(dict(data), schema, path), file=file, origins=origins or {})
    return msgspec.convert(dict(data), schema)


def refuse(found: Sequence[Mistake], *, file: Path | None, origins: Mapping[str, Origin]) -> None:
    """Raise one ConfigError that names all mistakes; do nothing when there are none.

    Its facts are those of the first mistake (``file``, ``line``, ``key``, ``found``, ``allowed``) and ``mistakes``, a list of all.
    """
    if not found:
        return
    facts = [_facts(mistake, file, origins) for mistake in found]
    sentences = [f"{fact['where']}: {mistake.sentence()}" for fact, mistake in zip(facts, found, strict=True)]
    count = len(sentences)
    problem = sentences[0] if count == 1 else f"{count} settings are wrong:\n" + "\n".join(f"  {sentence}" for sentence in sentences)
    hint = "Mend it, then look at the result with `trainbus config show`." if count == 1 else "Mend them, then run `trainbus config check`."
    raise ConfigError(problem, hint=hint, **facts[0], mistakes=facts)


def _facts(mistake: Mistake, file: Path | None, origins: Mapping[str, Origin]) -> dict[str, Any]:
    key = re.sub(r"\[\d+\].*", "", mistake.key)
    known = next((origins[one] for one in (key, *(one for one in origins if one.startswith(f"{key}."))) if one in origins), None)
    line = known.line if known else None
    where = known.where if known else str(file) if file else "the configuration"
    facts = {"file": str(file) if file else None, "line": line, "key": mistake.key, "found": mistake.found, "allowed": mistake.allowed}
    return {**facts, "nearest": mistake.nearest or None, "where": where}


def parse_value(text: str) -> Any:
    """A value in TOML syntax; bare words (and dates, of which we have none) are text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except DECODE_ERRORS:
        return text
    value = parsed["value"]
    return text if len(parsed) > 1 or isinstance(value, datetime.date | datetime.time) else value


def split_key(key: str) -> list[str]:
    """The parts of a dotted TOML key: ``plugin."my.own".x`` has three.

    Raises:
        ConfigError: It is none.
    """
    refusal = ConfigError(f"--set: {key!r} is no key path.", hint="For example: --set bus.lost_after=30", key=key)
    try:
        node: Any = tomllib.loads(f"{key} = 0")
    except DECODE_ERRORS as error:
        raise refusal from error
    parts = []
    while isinstance(node, dict):
        if len(node) != 1:  # a comment or a table header, which leaves no key or several
            raise refusal
        name, node = next(iter(node.items()))
        parts.append(name)
    return parts


def flatten(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables with their dotted paths; an empty table is a leaf."""
    for key, value in data.items():
        inner = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            yield from flatten(value, inner)
        else:
            yield inner, value


_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_ENTRY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def key_lines(text: str) -> dict[str, int]:
    """The line on which each table and key of a TOML text begins, by dotted path.

    tomllib doesn't tell. This reads headers and beginnings of entries; the inside of a multi-line string could fool it into
    naming a line for a key that isn't asked for, which does no harm.
    """
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = _plain(header[1])
            found.setdefault(section, number)
        elif entry := _ENTRY.match(line):
            key = _plain(entry[1])
            found.setdefault(f"{section}.{key}" if section else key, number)
    return found


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _line_of(key: str, lines: Mapping[str, int]) -> int | None:
    while key:
        if key in lines:
            return lines[key]
        key = key.rpartition(".")[0]
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}.", hint="Look at its permissions.", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 (byte {error.start}).", hint="Save it as UTF-8.", file=str(file)) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except DECODE_ERRORS as error:
        message = str(error)
        at = re.search(r"\(at line (\d+), column (\d+)\)", message)
        line = int(at[1]) if at else len(text.splitlines())
        said = message.partition(" (at ")[0]
        raise ConfigError(
            f"{file}:{line}: this is no TOML: {said}.",
            hint='Texts need quotes ("..."), lists brackets; see https://toml.io for the syntax.',
            file=str(file),
            line=line,
            column=int(at[2]) if at else None,
        ) from error


def _put(data: dict[str, Any], origins: dict[str, Origin], parts: Iterable[str], value: Any, origin: Origin) -> None:
    """Set one value deep inside; its origin replaces those of what it covers."""
    *tables, last = parts
    node = data
    for part in tables:
        inner = node.get(part)
        if not isinstance(inner, dict):
            inner = node[part] = {}
        node = inner
    node[last] = value
    key = ".".join([*tables, last])
    for covered in [one for one in origins if one == key or one.startswith(f"{key}.")]:
        del origins[covered]
    for inner_key, _ in flatten({key: value}):
        origins[inner_key] = origin
