"""Panels of the plugins that are installed beside the dashboard: their `web_panels` hook is asked, nothing else of them runs."""

from __future__ import annotations

import inspect
import logging
from importlib.metadata import entry_points

import pluggy

from trainbus.hookspecs import ENTRY_POINT_GROUP, Hooks, Panel


def installed_panels(logger: logging.Logger, *, without: str) -> dict[str, list[Panel]]:
    """Panels by the name of their plugin; a plugin that can't be asked is logged and passed over.

    Blocks while plugins are imported: for a thread.
    """
    found = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == without or point.name in found:
            continue
        try:
            loaded = point.load()
            panels = _ask(loaded() if inspect.isclass(loaded) else loaded)
        except Exception as error:  # noqa: BLE001 - somebody else's code must not cost the dashboard
            logger.warning("plugin %s was not asked for its panels: %s", point.name, error)
            continue
        if panels:
            found[point.name] = panels
    return found


def _ask(plugin: object) -> list[Panel]:
    manager = pluggy.PluginManager("trainbus")
    manager.add_hookspecs(Hooks)
    manager.register(plugin)
    return [panel for answer in manager.hook.web_panels() for panel in answer if isinstance(panel, Panel)]
