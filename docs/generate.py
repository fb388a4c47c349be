"""Writes the parts of the pages that follow from the code: settings, commands, events, messages, hooks.

Each stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; a test compares the committed pages with what this gives.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import inspect as types

from trainbus import hookspecs
from trainbus.bus import events, wire
from trainbus.bus.broker import roles
from trainbus.bus.config import BusConfig
from trainbus.bus.config_docs import settings, toml_value
from trainbus.bus.credentials import ROLES
from trainbus.cli.app import cli
from trainbus.cli.lazy import GROUPS, LAZY
from trainbus.plugins.anomaly.catalogue import ALL_RULES, RulesConfig
from trainbus.plugins.follow.config import FileConfig, FollowConfig
from trainbus.plugins.sinks import config as sinks
from trainbus.plugins.status_file.config import StatusFileConfig
from trainbus.testing.recordings import RECORDED, recorded
from trainbus.trainer_node.config import TrainerConfig

DOCS = Path(__file__).parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CLAUSE = re.compile(r"\bD(10|[1-9])\b")
HELP_WIDTH = 100
DESCRIBED: dict[str, type[msgspec.Struct]] = {
    "jsonl": sinks.JsonlConfig,
    "parquet": sinks.ParquetConfig,
    "tensorboard": sinks.TensorboardConfig,
    "mlflow": sinks.MlflowConfig,
    "wandb": sinks.WandbConfig,
    "trackio": sinks.TrackioConfig,
    "prometheus": sinks.PrometheusConfig,
    "opentelemetry": sinks.OpenTelemetryConfig,
    "status_file": StatusFileConfig,
    "follow": FollowConfig,
    "follow_files": FileConfig,
}
"""Sections of plugins whose Structs describe their fields: for each a block ``NAME_settings``."""


def bus_settings() -> str:
    """The keys of ``[bus]``."""
    return settings_of(BusConfig)


def trainer_settings() -> str:
    """The keys of ``[trainer]``."""
    return settings_of(TrainerConfig)


def settings_of(schema: type[msgspec.Struct]) -> str:
    """The keys of a section whose Struct describes its fields."""
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for setting in settings(schema):
        default = "must be there" if setting.required else "not set" if setting.default is None else f"`{toml_value(setting.default)}`"
        rows.append(f"| `{setting.name}` | {default} | {setting.allowed.replace('|', chr(92) + '|')} | {setting.meaning} |")
    return "\n".join(rows)


def commands() -> str:
    """The help of every command."""
    parts = []
    for group in GROUPS:
        names = [name for name, lazy in LAZY.items() if lazy.group == group and importlib.util.find_spec(lazy.target.partition(":")[0])]
        parts += [f"## {group}", *(text for name in names for text in _helps(name))] if names else []
    return "\n\n".join(parts)


def _helps(name: str) -> Iterator[str]:
    root = click.Context(cli, info_name="trainbus", terminal_width=HELP_WIDTH, **cli.context_settings)
    command = cli.get_command(root, name)
    assert command is not None
    yield f"### trainbus {name}"
    yield from _help(command, root, name)


def _help(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name, terminal_width=HELP_WIDTH)
    text = "\n".join(line.rstrip() for line in click.unstyle(command.get_help(context)).splitlines())
    yield f"```text\n{text}\n```"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            subcommand = command.get_command(context, inner)
            assert subcommand is not None
            yield from _help(subcommand, context, inner)


def event_kinds() -> str:
    """Each kind with its fields, then the Structs that some fields hold."""
    common = types.type_info(events.Event)
    assert isinstance(common, types.StructType)
    names = {field.name for field in common.fields}
    parts = ["## Fields of every event", _fields(events.Event)]
    for kind, cls in events.BY_KIND.items():
        parts += [f"## {kind}", _prose(cls), _fields(cls, without=names)]
    for part in (
        events.Memory,
        events.Process,
        events.Worker,
        events.MemoryGroup,
        events.Disk,
        events.Gpu,
        events.GpuProcess,
        events.Pressure,
        events.CheckpointFate,
        events.CheckpointDisk,
    ):
        parts += [f"## {part.__name__}", _prose(part), _fields(part)]
    return "\n\n".join(filter(None, parts))


def messages() -> str:
    """Everything that passes over the ROUTER socket, but requests."""
    return "\n\n".join(part for cls in wire.AnyMessage.__args__ for part in _described(cls, "type"))


def requests() -> str:
    """Every request."""
    return "\n\n".join(part for cls in wire.AnyRequest.__args__ for part in _described(cls, "op"))


def results() -> str:
    """What replies hold."""
    classes = (
        wire.Page,
        wire.RunInfo,
        wire.Cursor,
        wire.DeadLetter,
        wire.Lease,
        wire.BrokerStatus,
        wire.KeysStatus,
        wire.SourceStatus,
        wire.PluginStatus,
    )
    return "\n\n".join(part for cls in classes for part in _described(cls, ""))


def frames() -> str:
    """The payloads of the XPUB socket."""
    return "\n\n".join(part for cls in (wire.Fanout, wire.Commit) for part in _described(cls, ""))


def _described(cls: type[msgspec.Struct], tag_field: str) -> Iterator[str]:
    yield f"### {cls.__name__}"
    if tag_field:
        yield f"`{tag_field}` is `{cls.__struct_config__.tag}`."
    yield _prose(cls)
    fields = _fields(cls)
    if fields:
        yield fields


def _prose(described: Any) -> str:
    return (inspect.getdoc(described) or "").replace("``", "`")


def _fields(cls: type[msgspec.Struct], without: set[str] | frozenset[str] = frozenset()) -> str:
    described = types.type_info(cls)
    assert isinstance(described, types.StructType)
    fields = [field for field in described.fields if field.name not in without]
    if not fields:
        return ""
    rows = ["| field | type | when it is left out |", "| --- | --- | --- |"]
    if described.array_like:
        rows = ["| place | field | type |", "| --- | --- | --- |"]
        return "\n".join(rows + [f"| {place} | `{field.encode_name}` | {_type(field.type)} |" for place, field in enumerate(fields)])
    return "\n".join(rows + [f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} |" for field in fields])


def _default(field: types.Field) -> str:
    if field.required:
        return "must be there"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(default, float) and default != default:
        return "NaN"
    if isinstance(default, msgspec.Raw):
        return "nil"
    return f"`{msgspec.json.encode(default).decode()}`" if default is not None else "nil"


def _type(kind: types.Type) -> str:
    """A type in the words of msgpack."""
    if isinstance(kind, types.Metadata):
        return _type(kind.type)
    if isinstance(kind, types.UnionType):
        return (
            " or ".join(dict.fromkeys(_type(member) for member in kind.types)) if len(kind.types) < 6 else "map: one of the requests below"
        )
    if isinstance(kind, types.LiteralType):
        return ", ".join(f"`{value}`" if value else "empty" for value in kind.values)
    if isinstance(kind, types.StructType):
        return f"{'array' if kind.array_like else 'map'}: {kind.cls.__name__}"
    if isinstance(kind, types.ListType):
        return f"array, each {_type(kind.item_type)}"
    if isinstance(kind, types.TupleType):
        return f"array of {len(kind.item_types)}: {', '.join(_type(item) for item in kind.item_types)}"
    if isinstance(kind, types.DictType):
        return f"map of str to {_type(kind.value_type)}"
    names: dict[type, str] = {types.BytesType: "bin", types.NoneType: "nil", types.AnyType: "any", types.RawType: "any"}
    return names.get(type(kind), type(kind).__name__.removesuffix("Type").lower())


def hooks() -> str:
    """Each hook with its exact signature and contract."""
    parts = []
    for name, function in vars(hookspecs.Hooks).items():
        if name.startswith("_"):
            continue
        parts += [f"### {name}", f"```python\n{signature(name, function)}\n```", _prose(function)]
    return "\n\n".join(parts)


def signature(name: str, function: Callable[..., Any]) -> str:
    """The line that a plugin author writes."""
    return f"def {name}{inspect.signature(function)}"


def context() -> str:
    """What hooks are given."""
    parts = []
    for name, function in vars(hookspecs.Context).items():
        if not name.startswith("_") and inspect.isfunction(function):
            parts += [f"### context.{name}", f"```python\n{signature(name, function)}\n```", _prose(function)]
    return "\n\n".join(parts)


def recorded_histories() -> str:
    """Every recorded run."""
    rows = ["| name | events | what happens |", "| --- | --- | --- |"]
    return "\n".join(rows + [f"| `{name}` | {len(recorded(name))} | {said} |" for name, said in RECORDED.items()])


def anomaly_rules() -> str:
    """Every rule of the anomaly plugin: what it says, in which preset, with which defaults."""
    rows = ["| rule | kind | preset | says | defaults |", "| --- | --- | --- | --- | --- |"]
    for rule in ALL_RULES:
        config = getattr(RulesConfig(), rule.name)
        said = " ".join((inspect.getdoc(rule) or "").partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
        presets = ", ".join(sorted(rule.presets)) if config.metrics else "when it has metrics"
        values = ", ".join(
            f"`{name} = {toml_value(list(value) if isinstance(value, tuple) else value)}`"
            for name, value in ((name, getattr(config, name)) for name in config.__struct_fields__)
            if name != "enabled" and value is not None
        )
        rows.append(f"| `{rule.name}` | {rule.kind} | {presets} | {said} | {values} |")
    return "\n".join(rows)


def guarantees() -> str:
    """For each clause of the delivery contract: what it says, the rows of the fault matrix, and the tests whose docstrings name it."""
    tests = _proofs()
    parts = []
    for clause, words in sorted(_clauses().items()):
        rows = [f"`{row.name}`" for row in matrix_rows() if f"D{clause}" in row.clauses.split()]
        parts.append(f"## D{clause}\n\n{words}\n\nRows: {', '.join(rows)}\n\n" + "\n".join(f"- `{test}`" for test in tests.get(clause, [])))
    return "\n\n".join(parts)


def matrix_rows() -> list[Any]:
    """The rows of the fault matrix."""
    sys.path.insert(0, str(DOCS.parent))
    try:
        from tests.faults.matrix import row, rows
    finally:
        sys.path.pop(0)
    rows.load()
    return list(row.ROWS.values())


def _clauses() -> dict[int, str]:
    """What the page on the architecture says of each clause."""
    found = re.findall(r"^D(\d+)\n: (.*?)(?=\n\n)", (DOCS / "architecture.md").read_text(), re.DOTALL | re.MULTILINE)
    return {int(number): " ".join(words.split()) for number, words in found}


def _proofs() -> dict[int, list[str]]:
    """For each clause, the tests whose docstrings name it."""
    found: dict[int, list[str]] = {}
    for path in sorted((DOCS.parent / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for clause in sorted({int(number) for number in CLAUSE.findall(ast.get_docstring(node) or "")}):
                    found.setdefault(clause, []).append(f"{path.relative_to(DOCS.parent).as_posix()}::{node.name}")
    return found


def rights() -> str:
    """What each role may do."""
    rows = [f"| message or request | {' | '.join(ROLES)} |", f"| --- |{' --- |' * len(ROLES)}"]
    for kind, right in [*roles.MESSAGES.items(), *roles.REQUESTS.items()]:
        cells = []
        for role in ROLES:
            if ROLES.index(role) >= ROLES.index(right.role):
                cells.append("yes")
            elif right.own is not None and ROLES.index(role) >= ROLES.index(right.own):
                cells.append("own")
            elif kind is wire.Supervise:
                cells.append(f"`{'`, `'.join(roles.LOOKING)}`")
            else:
                cells.append("-")
        rows.append(f"| {kind.__name__} | {' | '.join(cells)} |")
    return "\n".join(rows)


GENERATORS: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        bus_settings,
        trainer_settings,
        commands,
        event_kinds,
        messages,
        requests,
        results,
        frames,
        hooks,
        context,
        guarantees,
        rights,
        anomaly_rules,
        recorded_histories,
    )
} | {f"{name}_settings": partial(settings_of, schema) for name, schema in DESCRIBED.items()}


def current(page: str) -> str:
    """The page with its generated parts made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{GENERATORS[block[2]]()}\n\n{block[3]}", page)


def main() -> int:
    """Write what has changed."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text()
        made = current(page)
        if made != page:
            path.write_text(made)
            sys.stdout.write(f"{path.name} is new\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
