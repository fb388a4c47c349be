"""All rows, in the order of the table."""

from __future__ import annotations

import importlib

MODULES = ("processes", "plugins", "disks", "damage", "clocks", "links", "peers")


def load() -> None:
    """Import the modules that register them."""
    for name in MODULES:
        importlib.import_module(f"tests.faults.matrix.{name}")
