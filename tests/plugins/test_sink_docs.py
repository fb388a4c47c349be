"""The pages of sinks and follow say what their schemas say; the generated tables are checked with all others."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest

from trainbus.errors import PluginError
from trainbus.plugins.follow.config import FileConfig, FollowConfig
from trainbus.plugins.follow.plugin import FollowPlugin
from trainbus.plugins.sinks import plugin
from trainbus.testing.context import PluginHarness

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins" / "sinks.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SINKS = {name: target for name, target in PROJECT["entry-points"]["trainbus.plugins"].items() if ".sinks." in target}


def schema(name):
    return EntryPoint(name, SINKS[name], "trainbus.plugins").load()().config_schema()


def test_the_example_of_the_page_is_accepted_by_the_schemas():
    """Whoever copies it has a working configuration."""
    content = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    for name in content["plugins"]:
        msgspec.convert(content["plugin"][name], schema(name))


@pytest.mark.parametrize("name", SINKS)
def test_every_sink_has_a_row_and_a_table_and_every_key_a_meaning(name):
    """Also what a crash can repeat."""
    assert f"\n### {name}\n" in PAGE
    assert PAGE.count(f"| `{name}`") + PAGE.count(f", `{name}`") >= 2
    section = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    for key in schema(name).__struct_fields__:
        (line,) = [line for line in section.splitlines() if line.startswith(f"| `{key}` |")]
        assert line.rstrip(" |").endswith("."), line


@pytest.mark.parametrize("name", set(SINKS) - {"jsonl", "tensorboard"})
def test_a_sink_whose_library_is_missing_says_what_to_install(name):
    """The extra of its name, which there is."""
    assert name in PROJECT["optional-dependencies"]
    with pytest.raises(PluginError, match=f"The plugin {name} needs the module no_such_module") as caught:
        plugin.library("no_such_module", name)
    assert caught.value.hint == f"pip install 'trainbus[{name}]'"


def test_the_example_of_the_watch_page_works(tmp_path):
    """Its patterns too; every key of its tables has a meaning."""
    page = (ROOT / "docs" / "plugins" / "follow.md").read_text()
    content = tomllib.loads(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    harness = PluginHarness(FollowPlugin(), config=content["plugin"]["follow"], directory=tmp_path)
    harness.start()
    for key in (*FollowConfig.__struct_fields__, *FileConfig.__struct_fields__):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        assert re.search(r"[.\w]+ \|$", line), line
