"""`trainbus.testing` for others: names, fixtures and examples stand on its page; loading it costs those nothing who don't use it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys

import pytest

import trainbus.testing
from trainbus.testing import pytest_plugin

FIXTURES = ("trainbus_bus", "trainbus_clock", "trainbus_harness", "trainbus_home", "trainbus_local", "trainbus_recorded")


def page(repository):
    return (repository / "docs" / "testing.md").read_text()


def test_the_public_names_are_the_documented_ones(repository):
    """What `from trainbus.testing import` gives stands in the first table, and nothing else does."""
    table = page(repository).partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(trainbus.testing.__all__)
    for name in trainbus.testing.__all__:
        assert getattr(trainbus.testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        trainbus.testing.Nothing  # noqa: B018


def test_every_fixture_is_documented_and_nothing_else_is(repository):
    """By name, in the table of fixtures."""
    table = page(repository).partition("\n## Fixtures\n")[2].partition("\n## ")[0]
    defined = [name for name in vars(pytest_plugin) if name.startswith("trainbus_")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(defined) == sorted(FIXTURES)


def test_the_examples_of_the_page_run(repository, tmp_path):
    """In order, as one program, as they stand there."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page(repository), re.MULTILINE | re.DOTALL)))
    result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr


def test_the_pytest_plugin_loads_nothing_until_a_fixture_is_used():
    """It is imported in every test run of every project in the environment."""
    code = "import json, pytest, sys; before = set(sys.modules); import trainbus.testing.pytest_plugin"
    code += "; print(json.dumps(sorted(set(sys.modules) - before)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    ours = [name for name in loaded if name.startswith("trainbus")]
    assert ours == ["trainbus", "trainbus.testing", "trainbus.testing.pytest_plugin", "trainbus.version"]
    assert not {name.partition(".")[0] for name in loaded} & {"msgspec", "zmq", "click", "rich", "asyncio", "sqlite3", "torch"}


def test_the_package_declares_the_pytest_plugin(repository):
    """Under a name that `-p no:trainbus` can leave out."""
    import tomllib

    points = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"trainbus": "trainbus.testing.pytest_plugin"}
    assert importlib.import_module(points["trainbus"]) is pytest_plugin
