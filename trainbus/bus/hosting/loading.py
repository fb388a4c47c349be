"""Load a plugin and check it against the contract: hooks, arguments, HOOK_API, config.

Runs in the plugin's host (and in test harnesses), never in the supervisor. Every mistake that an author can make here
is one `PluginError` that names the guilty function and the expected signature.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pluggy

from trainbus.bus.config_file import file_origins, validate_section
from trainbus.bus.hosting.registry import Installed, closest, nearest
from trainbus.errors import ConfigError, PluginError
from trainbus.hookspecs import HOOK_API, Hooks, kind_of_hook

PROJECT = "trainbus"
SPECS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(function).parameters)[1:]
    for name, function in vars(Hooks).items()
    if hasattr(function, f"{PROJECT}_spec")
}
"""Every hook with the names of its arguments."""


class Loaded:
    """A plugin that keeps the contract.

    Attributes:
        hooks: Names of the hooks that it implements, in the order of the specification.
        kinds: The event kinds that it must be sent; empty means all, None means that it handles no events.
        schema: Its config's Struct, or None.
        config: The validated config (an instance of ``schema``), or an empty dict.
    """

    def __init__(self, plugin: Installed, instance: object, options: dict[str, Any], *, file: str = "") -> None:
        self.name = plugin.name
        self.version = plugin.version
        self.instance = instance
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(Hooks)
        self.hooks = check_hooks(plugin, instance)
        self.hook_api = _check_api(plugin, instance)
        self.manager.register(instance, plugin.name)
        self.schema = self._ask_schema(plugin)
        self.config = check_config(plugin.name, self.schema, options, file=file)

    @property
    def kinds(self) -> tuple[str, ...] | None:
        """The event kinds to subscribe to: empty for all, None when no hook handles events."""
        if "on_event" in self.hooks:
            return ()
        return tuple(kind for hook in self.hooks if (kind := kind_of_hook(hook)) is not None) or None

    def is_coroutine(self, hook: str) -> bool:
        """Whether any implementation of ``hook`` is a coroutine function."""
        return any(inspect.iscoroutinefunction(impl.function) for impl in getattr(self.manager.hook, hook).get_hookimpls())

    def _ask_schema(self, plugin: Installed) -> type[msgspec.Struct] | None:
        answers = self.manager.hook.config_schema() if "config_schema" in self.hooks else []
        if not answers:
            return None
        schema = answers[0]
        if not (isinstance(schema, type) and issubclass(schema, msgspec.Struct)):
            problem = f"Plugin {plugin.name!r}: config_schema() returned {schema!r}, which is no msgspec Struct class."
            raise PluginError(problem, hint="Return the class itself: `return MyConfig`.", plugin=plugin.name)
        return schema


def load(plugin: Installed, options: dict[str, Any], *, file: str = "") -> Loaded:
    """Import the plugin, make an instance of it when it is a class, and check everything.

    Args:
        plugin: What the registry says.
        options: The table ``[plugin.NAME]``.
        file: Where the options come from, for messages.

    Raises:
        PluginError: Not importable, no hooks, a misspelt hook or argument, a HOOK_API that this version doesn't speak.
        ConfigError: ``options`` don't fit the plugin's schema.
    """
    return Loaded(plugin, create(plugin), options, file=file)


def create(plugin: Installed) -> object:
    """Import the plugin; an instance of it when it is a class.

    Raises:
        PluginError: Importing or creating it raised.
    """
    found = _import(plugin)
    if inspect.isclass(found):
        try:
            return found()
        except Exception as error:
            raise _broken(plugin, "can't be created", error) from error
    return found


def check_hooks(plugin: Installed, instance: object) -> tuple[str, ...]:
    """The hooks that ``instance`` implements, in the order of the specification.

    Raises:
        PluginError: A marked function is no hook, asks for an argument that the hook doesn't have, or there are no hooks at all.
    """
    found = set()
    for attribute in dir(instance):
        function = getattr(instance, attribute, None)
        marks = getattr(function, f"{PROJECT}_impl", None)
        if not inspect.isroutine(function) or not isinstance(marks, dict):
            continue
        hook = marks.get("specname") or attribute
        if hook not in SPECS:
            raise PluginError(
                f"Plugin {plugin.name!r} ({plugin.target}): there is no hook named {hook!r}.{nearest(hook, SPECS)}",
                hint=_expected(hook) or f"Hooks: {', '.join(SPECS)}.",
                plugin=plugin.name,
                found=hook,
                allowed=list(SPECS),
            )
        _check_arguments(plugin, hook, function)
        found.add(hook)
    if not found:
        problem = f"Plugin {plugin.name!r} ({plugin.target}) implements no hook."
        raise PluginError(problem, hint="Mark its hooks with @trainbus.hookimpl.", plugin=plugin.name, allowed=list(SPECS))
    return tuple(hook for hook in SPECS if hook in found)


def check_config(name: str, schema: type[msgspec.Struct] | None, options: dict[str, Any], *, file: str = "") -> Any:
    """``options`` as an instance of ``schema``; an empty dict for a plugin without one.

    Raises:
        ConfigError: Names file, key path, what was found and what is allowed.
    """
    origins = file_origins(Path(file)) if file else {}
    if schema is None:
        if options:
            key = f"plugin.{name}.{next(iter(options))}"
            known = origins.get(key)
            where = f"{known.where if known else file}: " if file else ""
            problem = f"{where}{key} is not known: this plugin has no settings."
            raise ConfigError(problem, hint=f"Remove [plugin.{name}].", file=file, key=key, line=known.line if known else None)
        return {}
    return validate_section(options, schema, f"plugin.{name}", file=Path(file) if file else None, origins=origins)


def _import(plugin: Installed) -> object:
    module, _, attribute = plugin.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise _broken(plugin, "can't be imported", error) from error
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            problem = f"Plugin {plugin.name!r}: {module} has no {part!r}.{nearest(part, vars(found))}"
            raise PluginError(problem, hint="Its package declares a wrong entry point.", plugin=plugin.name, found=part)
        found = getattr(found, part)
    return found


def _broken(plugin: Installed, what: str, error: Exception) -> PluginError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    hint = "The traceback is in its log."
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"Install what provides the module {error.name!r} into this environment. {hint}"
    problem = f"Plugin {plugin.name!r} ({plugin.target}) {what}: {type(error).__name__}: {error}{where}"
    return PluginError(problem, hint=hint, plugin=plugin.name, exception=type(error).__name__)


def _check_api(plugin: Installed, instance: object) -> int:
    stated = getattr(instance, "hook_api", HOOK_API)
    if stated != HOOK_API:
        problem = f"Plugin {plugin.name!r} is written for HOOK_API {stated}; this trainbus speaks {HOOK_API}."
        hint = "Install a newer trainbus." if isinstance(stated, int) and stated > HOOK_API else "Install a newer version of the plugin."
        raise PluginError(problem, hint=hint, plugin=plugin.name, found=stated, allowed=HOOK_API)
    return HOOK_API


def _check_arguments(plugin: Installed, hook: str, function: Any) -> None:
    allowed = SPECS[hook]
    for name, parameter in inspect.signature(function).parameters.items():
        free = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.default is not parameter.empty
        if free or name in allowed:
            continue
        raise PluginError(
            f"Plugin {plugin.name!r} ({plugin.target}): hook {hook!r} has no argument named {name!r}.{nearest(name, allowed)}",
            hint=_expected(hook),
            plugin=plugin.name,
            hook=hook,
            found=name,
            allowed=list(allowed),
        )


def _expected(hook: str) -> str:
    name = hook if hook in SPECS else closest(hook, SPECS)
    return f"Expected: def {name}({', '.join(('self', *SPECS[name]))}); arguments may be left out." if name else ""
