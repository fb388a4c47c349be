"""Every code block of every page runs, or says which test runs it, or why none can."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path

import pytest

from tests.docs.blocks import BLOCKS, ROOT, Block, blocks_of, running, shortcomings, telling
from tests.docs.stage import Stage
from trainbus.cli import app

HEAVY = ("lightning", "accelerate", "LocalBus")
"""A page whose Python loads these, or starts processes, runs with the slow tests."""


def pages(language: str) -> list[tuple[Path, list[Block]]]:
    return [(page, list(blocks)) for page, blocks in groupby(running(language), key=lambda block: block.page)]


def named(language: str) -> list:
    """The pages as parameters; heavy ones are slow tests."""
    found = []
    for page, blocks in pages(language):
        slow = language == "console" or any(word in block.text for block in blocks for word in HEAVY)
        marks = [pytest.mark.slow, pytest.mark.timeout(600)] if slow else []
        found.append(pytest.param(blocks, id=str(page.relative_to(ROOT)), marks=marks))
    return found


def test_every_block_runs_or_says_why_not():
    """Nothing that looks like a command or a program is only there to be looked at."""
    assert len(BLOCKS) > 40
    assert shortcomings(BLOCKS) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("trainbus journal trim --to-bytes 1GB --run R", ["journal", "trim", "--to-bytes", "--run"]),
        ("TRAINBUS_TOKEN=x trainbus tail --follow", ["tail", "--follow"]),
        ("echo hello | trainbus infer --model=m -n 3", ["infer", "--model"]),
        ("trainbus exec --run r -- torchrun --nproc-per-node 2 t.py", ["exec", "--run", "torchrun"]),
        ("curl -s http://127.0.0.1:1/v1/loss -d '{}'", ["/v1/loss"]),
        ("pip install .", ["pip"]),
    ],
)
def test_what_makes_a_command_that_command_is_looked_for_in_its_test(command, words):
    """Program, subcommands and long options; not names, numbers and files."""
    assert telling(command) == words


def test_a_block_that_nobody_runs_is_noticed():
    """For each reason there is."""
    page = ROOT / "docs" / "index.md"
    text = (
        "```ruby\nputs 1\n```\n\n```text\n$ trainbus up\n```\n\n```console\nno command\n```\n\n"
        "<!-- run by tests/nowhere.py -->\n```console\n$ ls\n```\n\n"
        "<!-- run by tests/docs/stage.py -->\n```console\n$ trainbus journal trim --json\n```\n\n"
        "<!-- shown: no -->\n\n```python\n1\n```\n"
    )
    found = shortcomings(blocks_of(page, text))
    assert [line.partition(": ")[2][:12] for line in found] == [
        "nobody runs ",
        "commands bel",
        "no line begi",
        "there is no ",
        "tests/docs/s",
        "'no' is no r",
    ]


@pytest.mark.parametrize("blocks", named("python"))
def test_the_python_of_a_page_runs_from_top_to_bottom(blocks, tmp_path):
    """As one program, in a folder of its own, with no broker anywhere."""
    program = "\n".join(block.text for block in blocks)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in running("toml")])
def test_a_configuration_on_a_page_is_accepted(block, tmp_path, capsys):
    """By the bus and by the plugins that it names."""
    (tmp_path / "trainbus.toml").write_text(block.text)
    assert app.run(["config", "check", "--config", str(tmp_path / "trainbus.toml")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in running("json")])
def test_the_json_of_a_page_is_json(block):
    """Line by line where it is JSONL."""
    for line in block.text.splitlines():
        json.loads(line)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml" and block.mark], ids=lambda block: block.place)
def test_toml_that_is_no_configuration_of_ours_is_toml(block):
    """A package's pyproject.toml, for example."""
    tomllib.loads(block.text)


@pytest.mark.parametrize("blocks", named("console"))
def test_the_commands_of_a_page_run_from_top_to_bottom(blocks, tmp_path):
    """In a shell, beside a training that obeys, with the files that the page names."""
    stage = Stage(tmp_path / "stage")
    try:
        for block in blocks:
            for command in block.commands:
                stage.run(command)
    finally:
        stage.close()
