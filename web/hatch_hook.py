"""Builds the page when a wheel or an archive of the sources is built. An editable install leaves that to ``make page``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface[Any]):
    """Runs `web/build.py`."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node as a package, where the page isn't built yet and the system has no Node that would do."""
        page = _page(Path(self.root))
        return [] if page.fresh() or page.system_node() else [page.NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files are collected."""
        if version != "editable":
            _page(Path(self.root)).build()


def _page(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("trainbus_page", root / "web" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
