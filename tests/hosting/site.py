"""A directory that looks to importlib.metadata as if packages were installed in it."""

from __future__ import annotations

import textwrap
from pathlib import Path

HEAD = """\
from __future__ import annotations
import asyncio, os, time
import msgspec
from trainbus import hookimpl
from trainbus.bus import events
"""


class Site:
    """Installs plugins into ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def install(self, name: str, source: str, *, attribute: str = "P", version: str = "1.2.3") -> str:
        """A distribution ``NAME-dist`` whose entry point NAME is ``attribute`` of a module with this source; the module's name."""
        module = f"site_plugin_{name}"
        (self.directory / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        info = self.directory / f"{name}_dist-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[trainbus.plugins]\n{name} = {module}:{attribute}\n")
        return module
