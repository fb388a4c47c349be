"""``python -m trainbus.testing.inspection INSTALLED``: what can be told about a plugin by importing it, as JSON lines of findings.

A process of its own, for `trainbus.testing.check`: importing may take long, print, hang, or end the process, and import time can
only be measured where nothing is imported yet. INSTALLED is a `trainbus.bus.hosting.registry.Installed` as JSON.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import inspect as types

from trainbus.bus import events
from trainbus.bus.hosting import loading
from trainbus.bus.hosting.registry import Installed, nearest
from trainbus.bus.validation import mistakes
from trainbus.errors import PluginError
from trainbus.hookspecs import HOOK_API, Panel

IMPORT_SECONDS = 1.0
"""Beyond this, importing is worth a word: `trainbus plugins list` and each restart wait for it."""

HEAVY = ("torch", "transformers", "tensorflow", "jax", "datasets", "peft", "pandas", "matplotlib", "scipy", "sklearn", "tensorboard")
"""Modules that take long to import, and that a plugin seldom needs before `start`."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one check; ``mend`` is the advice, empty only when all is well."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", found=found)


def warn(check: str, found: str, mend: str) -> Finding:
    """It works, and could be better."""
    return Finding(check=check, state="warn", found=found, mend=mend)


def fail(check: str, found: str, mend: str) -> Finding:
    """It doesn't work."""
    return Finding(check=check, state="fail", found=found, mend=mend)


def inspection(plugin: Installed) -> Iterator[Finding]:
    """Import, hooks, HOOK_API, settings, panels and commands, in this order; ends early when the rest can't be told."""
    before = set(sys.modules)
    started = time.perf_counter()
    try:
        instance = loading.create(plugin)
    except PluginError as error:
        yield fail("import", error.problem, error.hint)
        return
    seconds = time.perf_counter() - started
    yield _import_time(seconds, set(sys.modules) - before)
    yield from _hooks(plugin, instance)
    yield from _api(instance)
    hooks = dict(loading.marked(instance))
    if "config_schema" in hooks:
        yield from _guarded("config", lambda: _settings(plugin.name, hooks["config_schema"]()))
    else:
        yield ok("config", "no settings")
    if "web_panels" in hooks:
        yield from _guarded("panels", lambda: _panels(hooks["web_panels"]()))
    if "cli_commands" in hooks:
        yield from _guarded("commands", lambda: _commands(hooks["cli_commands"]()))


def _import_time(seconds: float, modules: set[str]) -> Finding:
    heavy = sorted({name.partition(".")[0] for name in modules} & set(HEAVY))
    found = f"{seconds * 1000:.0f} ms" + (f", with {', '.join(heavy)}" if heavy else "")
    if heavy or seconds > IMPORT_SECONDS:
        what = f"Import {', '.join(heavy)}" if heavy else "Import what takes long"
        return warn("import", found, f"{what} inside `start`, or inside the function that needs it: each command that lists plugins waits.")
    return ok("import", found)


def _hooks(plugin: Installed, instance: object) -> Iterator[Finding]:
    wrong = False
    for mistake in loading.hook_mistakes(plugin, instance):
        wrong = True
        yield fail("hooks", mistake.problem, mistake.hint)
    marked = {hook for hook, _ in loading.marked(instance)}
    for name in loading.SPECS:
        if name not in marked and inspect.isroutine(getattr(instance, name, None)):
            wrong = True
            yield warn(
                "hooks", f"{name}() has the name of a hook, but is not marked as one: it is never called.", "Put @hookimpl above it."
            )
    if not wrong:
        yield ok("hooks", ", ".join(hook for hook in loading.SPECS if hook in marked))


def _api(instance: object) -> Iterator[Finding]:
    stated = getattr(instance, "hook_api", None)
    if stated is None:
        yield warn("HOOK_API", "not stated", f"Write `hook_api = {HOOK_API}` into the plugin: a later trainbus then knows what it expects.")
    elif stated == HOOK_API:
        yield ok("HOOK_API", str(stated))
    else:
        newer = isinstance(stated, int) and stated > HOOK_API
        mend = (
            "Install a newer trainbus." if newer else f"Read what has changed since in docs/plugins.md, then write `hook_api = {HOOK_API}`."
        )
        yield fail("HOOK_API", f"written for {stated}; this trainbus speaks {HOOK_API}", mend)


def _settings(name: str, schema: Any) -> Iterator[Finding]:
    if not (isinstance(schema, type) and issubclass(schema, msgspec.Struct)):
        yield fail("config", f"config_schema() returned {schema!r}", "Return the msgspec Struct class itself: `return Settings`.")
        return
    try:
        msgspec.json.schema(schema)
    except TypeError as error:
        yield fail(
            "config", f"{schema.__name__} can't be described: {error}", "Use types that TOML has: str, int, float, bool, lists, tables."
        )
        return
    fields = types.type_info(schema).fields  # type: ignore[attr-defined]
    required = [field.name for field in fields if field.required]
    if required:
        yield warn(
            "config",
            f"without a default: {', '.join(required)}",
            f"Give defaults, so that enabling the plugin is enough; else say in its README that [plugin.{name}] must be there.",
        )
    else:
        for mistake in mistakes(_as_toml(msgspec.to_builtins(schema())), schema, f"plugin.{name}"):
            yield fail("config", f"its own default is refused: {mistake.sentence()}", "Change the default, or what is allowed.")
    silent = [field.name for field in fields if not _described(field.type)]
    if silent:
        yield warn(
            "config",
            f"not described: {', '.join(silent)}",
            'Write Annotated[TYPE, msgspec.Meta(description="...")]: `trainbus config settings` prints it.',
        )
    if not required and not silent:
        yield ok("config", ", ".join(field.name for field in fields) or "no settings")


def _as_toml(value: Any) -> Any:
    """What a person would have to write for it: TOML has neither tuples nor nothing."""
    if isinstance(value, dict):
        return {name: _as_toml(part) for name, part in value.items() if part is not None}
    return [_as_toml(part) for part in value] if isinstance(value, list | tuple | set | frozenset) else value


def _described(kind: types.Type) -> bool:
    if isinstance(kind, types.Metadata):
        return bool((kind.extra_json_schema or {}).get("description")) or _described(kind.type)
    return isinstance(kind, types.UnionType) and any(_described(member) for member in kind.types)


def _panels(panels: Any) -> Iterator[Finding]:
    if not isinstance(panels, list) or not all(isinstance(panel, Panel) for panel in panels):
        yield fail("panels", f"web_panels() returned {panels!r}", "Return a list of trainbus.Panel.")
        return
    wrong = False
    for index, panel in enumerate(panels):
        for problem, mend in _panel_mistakes(panel, {other.id for other in panels[:index]}):
            wrong = True
            yield fail("panels", f"{panel.id!r}: {problem}", mend)
    if not wrong:
        yield ok("panels", ", ".join(panel.id for panel in panels) or "none")


def _panel_mistakes(panel: Panel, before: set[str]) -> Iterator[tuple[str, str]]:
    if panel.id in before:
        yield "another panel has this id too", "Give each panel an id of its own."
    if panel.events not in events.BY_KIND:
        yield f"there is no kind {panel.events!r}.{nearest(panel.events, events.BY_KIND)}", f"Kinds: {', '.join(events.BY_KIND)}."
        return
    known = events.BY_KIND[panel.events].__struct_fields__
    paths = [*panel.fields, panel.x] if panel.kind == "chart" else list(panel.fields)
    for path in paths:
        if (first := path.partition(".")[0]) not in known:
            yield f"{panel.events} events have no field {first!r}.{nearest(first, known)}", f"Fields: {', '.join(known)}."


def _commands(commands: Any) -> Iterator[Finding]:
    import click

    if not isinstance(commands, list) or not all(isinstance(command, click.Command) for command in commands):
        yield fail("commands", f"cli_commands() returned {commands!r}", "Return a list of click commands.")
        return
    silent = [str(command.name) for command in commands if not (command.help or command.short_help)]
    if silent:
        yield warn("commands", f"without help: {', '.join(silent)}", "Give each command's function a docstring.")
    else:
        yield ok("commands", ", ".join(str(command.name) for command in commands) or "none")


def _guarded(check: str, answer: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What the check yields; when the plugin's own function raises, that is the finding."""
    try:
        yield from list(answer())
    except Exception as error:  # noqa: BLE001 - the plugin's own code: whatever it raises is told
        yield fail(check, f"{type(error).__name__}: {error}", "This hook is called without context and must not touch anything.")


def main(arguments: list[str]) -> None:
    """Write the findings to the file given second (stdout belongs to the plugin)."""
    with open(arguments[1], "wb") as file:  # noqa: PTH123 - a path of our own, given as text
        for finding in inspection(msgspec.json.decode(arguments[0], type=Installed)):
            file.write(msgspec.json.encode(finding) + b"\n")
            file.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
