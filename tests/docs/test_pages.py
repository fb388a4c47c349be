"""The pages say what the code does: what can be generated is, and examples run."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from msgspec import inspect as types

import trainbus
from trainbus import hookspecs
from trainbus.bus import events, wire
from trainbus.cli.app import cli
from trainbus.cli.lazy import LAZY

ROOT = Path(__file__).parent.parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def load_generate():
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_generated_parts_are_current(path):
    """`python docs/generate.py` would change nothing."""
    page = path.read_text()
    assert load_generate().current(page) == page, "run: python docs/generate.py"


def test_a_generated_part_that_is_old_is_noticed():
    """The comparison above can fail."""
    old = "<!-- generated: bus_settings -->\nold\n<!-- end -->"
    assert "lost_after" in load_generate().current(old)


def structs(page_name, classes):
    text = (ROOT / "docs" / page_name).read_text()
    for cls in classes:
        for field in types.type_info(cls).fields:
            yield text, cls, field.encode_name


def test_the_protocol_page_names_every_message_request_and_field():
    """A client can be written from it alone."""
    classes = [*wire.AnyMessage.__args__, *wire.AnyRequest.__args__, wire.Fanout, wire.Commit, wire.Page, wire.Cursor, wire.BrokerStatus]
    for text, cls, field in structs("protocol.md", classes):
        section = text.partition(f"### {cls.__name__}\n")[2].partition("\n### ")[0]
        assert f"`{field}`" in section, f"{cls.__name__}.{field}"


def test_the_events_page_names_every_kind_and_field():
    """So that nobody has to read the code to know what an event carries."""
    for kind, cls in events.BY_KIND.items():
        for text, _, field in structs("events.md", [cls]):
            assert f"## {kind}\n" in text
            assert f"| `{field}` |" in text, f"{kind}.{field}"


def test_every_hook_is_documented_with_its_exact_signature():
    """What an author copies from the page is what is checked at load."""
    text = (ROOT / "docs" / "plugins.md").read_text()
    hooks = {name: hook for name, hook in vars(hookspecs.Hooks).items() if not name.startswith("_")}
    assert len(hooks) > len(events.BY_KIND)
    for name, hook in hooks.items():
        assert f"def {name}{inspect.signature(hook)}" in text
        assert inspect.getdoc(hook).splitlines()[0].replace("``", "`") in text


def test_the_example_plugin_of_the_page_works():
    """Its code and its test, as they stand there."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "plugins.md").read_text(), re.MULTILINE | re.DOTALL)
    program = "\n".join(block for block in blocks if not block.startswith("def "))
    assert "harness.feed" in program
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def mentioned_commands():
    for path in PAGES:
        code = re.findall(r"`(trainbus [^`]+)`|^\$ (trainbus .*)$", path.read_text(), re.MULTILINE)
        for one, other in code:
            words = (one or other).partition("#")[0].split()
            yield pytest.param(words[1:], id=f"{path.name}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(mentioned_commands()))
def test_every_command_on_a_page_exists(words):
    """With its subcommands and options."""
    command, context = cli, click.Context(cli, info_name="trainbus")
    for word in words:
        if word == "--":  # what follows is somebody else's command
            return
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert option == "--help" or any(option in parameter.opts for parameter in command.params), f"{command.name} has no {option}"
        elif isinstance(command, click.Group) and not word.isupper() and word != "...":
            if command is cli and word in LAZY and importlib.util.find_spec(LAZY[word].target.partition(":")[0]) is None:
                return
            command = command.get_command(context, word)
            assert command is not None, f"no {word} in: {words}"


def test_every_make_target_on_a_page_exists():
    """README and CONTRIBUTING name no target that the Makefile lacks."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"(?:`|^\$ )make ([\w-]+)", path.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def test_links_between_pages_lead_somewhere():
    """Relative links point at files of the repository."""
    for path in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_public_names_are_the_documented_ones():
    """What `from trainbus import` gives stands in docs/python-api.md, and nothing else does."""
    text = (ROOT / "docs" / "python-api.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(trainbus.__all__)
