"""Which plugins are installed: entry points read as text, never imported here.

The supervisor and the command line use this; the plugin's own code runs only in its host.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import msgspec

from trainbus.errors import PluginError
from trainbus.hookspecs import ENTRY_POINT_GROUP


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as its distribution declares it. ``target`` is ``module:object``."""

    name: str
    target: str
    distribution: str = ""
    version: str = ""


def installed() -> dict[str, Installed]:
    """Every plugin that an installed distribution declares, by name. Nothing of theirs is imported."""
    return {point.name: _describe(point) for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)}


def find(name: str) -> Installed:
    """The plugin called ``name``.

    Raises:
        PluginError: None is installed under this name; the message names the nearest ones.
    """
    known = installed()
    if name in known:
        return known[name]
    near = nearest(name, known)
    have = ", ".join(known) or "none"
    raise PluginError(
        f"There is no plugin named {name!r}.{near}",
        hint=f"Installed: {have}. A package brings a plugin by declaring it under the entry point group {ENTRY_POINT_GROUP!r}.",
        found=name,
        allowed=list(known),
    )


def development(target: str, name: str = "") -> Installed:
    """A plugin that no distribution declares, given as ``module:object``: for developing one.

    Without ``name`` it is called after its object: ``mine.plugin:LossWatchPlugin`` becomes ``losswatch``.

    Raises:
        PluginError: ``target`` is not of this form.
    """
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise PluginError(f"{target!r} names no plugin.", hint="Give an installed plugin's name, or module:object of one in development.")
    own = attribute.rsplit(".", 1)[-1].lower()
    return Installed(name=name or own.removesuffix("plugin").strip("_") or own, target=target)


def nearest(found: str, allowed: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` when something allowed is close to what was found, else nothing."""
    name = closest(found, allowed)
    return f" Did you mean {name!r}?" if name else ""


def closest(found: str, allowed: Iterable[str]) -> str:
    """The allowed name that looks most like what was found; empty when none does."""
    return next(iter(difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.6)), "")


def _describe(point: EntryPoint) -> Installed:
    owner = point.dist
    return Installed(name=point.name, target=point.value, distribution=owner.name if owner else "", version=owner.version if owner else "")
