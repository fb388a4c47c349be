"""Plugins as installed packages: a module and its dist-info in a directory that this process and its children import from."""

from __future__ import annotations

import os
import sys

import pytest

from tests.hosting.site import Site
from tests.hosting.system import System


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site directory; ``site.install(NAME, source)`` puts a plugin into it."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]))
    before = set(sys.modules)
    yield Site(directory)
    for name in set(sys.modules) - before:
        if name.startswith("site_plugin_"):
            del sys.modules[name]


@pytest.fixture
def system(site, trainbus_home):
    """A system that is not started yet; plugins come from `site`."""
    made = System(trainbus_home)
    yield made
    made.close()
