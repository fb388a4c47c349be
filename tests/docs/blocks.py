"""The code blocks of the pages, and what becomes of each in the tests.

A block runs, by its language, unless a comment right before it says otherwise:

- ``<!-- run by tests/....py -->``: that test runs these lines, or the same steps with what they need. Commands and options of the lines
  must stand in it (or in its folder's conftest). Several files stand behind each other with commas.
- ``<!-- shown: REASON -->``: it can't run in a test, for this reason. Commands of ours in it are still checked against the parser.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from trainbus.cli.app import cli

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "examples").rglob("README.md") if "node_modules" not in path.parts),
]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>run by|shown:) (?P<why>[^\n]+?) -->\n\n?)?```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
GENERATED = re.compile(r"<!-- generated: \w+ -->\n.*?<!-- end -->", re.DOTALL)
RUNNING = ("python", "toml", "json", "console")
DRAWN = ("text", "", "{toctree}", "{eval-rst}")
"""Pictures, output and what sphinx reads: nothing that anybody could run."""


class Block(NamedTuple):
    """One fenced block. ``mark`` is "", "run by" or "shown:", ``why`` what stands behind it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    why: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines that a person types, without their comments."""
        found = [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]
        return [re.sub(r"\s+#\s.*$", "", line).strip() for line in found]


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page, without those that are generated from the code (and compared with it)."""
    content = page.read_text() if text is None else text
    content = GENERATED.sub(lambda match: "\n" * match[0].count("\n"), content)
    return [
        Block(page, content.count("\n", 0, match.start()) + 1, match["language"], match["text"], match["mark"] or "", match["why"] or "")
        for match in FENCE.finditer(content)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def running(language: str) -> list[Block]:
    """The blocks of a language that run here."""
    return [block for block in BLOCKS if block.language == language and not block.mark]


def not_run(block: Block, tests: list[Path]) -> list[str]:
    """The words of each command of a block that stand in none of its tests: the program, its subcommands, its long options.

    A test that names the page reads the commands from it.
    """
    known = set().union(*(words_of(file) for test in tests for file in (test, test.parent / "conftest.py") if file.is_file()))
    if block.page.name in known:
        return []
    return [" ".join(lacking) for command in block.commands if (lacking := [word for word in telling(command) if word not in known])]


def telling(command: str) -> list[str]:
    """What makes a command that command, whatever names and numbers it is given: ``trainbus journal trim --to-bytes 1GB`` without 1GB."""
    words = shlex.split(command, comments=True)
    while words and "=" in words[0]:
        words.pop(0)
    if "|" in words:
        words = words[words.index("|") + 1 :]
    if words[0] == "curl":
        return [urlsplit(next(word for word in words if word.startswith("http"))).path]
    chosen = [] if words[0] == "trainbus" else [words[0]]
    group: click.Command | None = cli
    for place, word in enumerate(words[1:], 1):
        if word == "--":
            program = words[place + 1]  # with arguments of a script that is only an example
            return [*chosen, *([] if program == "python" else [program])]
        if word.startswith("--"):
            chosen.append(word.partition("=")[0])
        elif words[0] == "trainbus" and isinstance(group, click.Group):
            group = group.get_command(click.Context(group), word)
            chosen += [word] if group is not None else []
    return chosen


@lru_cache
def words_of(test: Path) -> frozenset[str]:
    """All words of a test's strings: what it passes to programs stands in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.split(r"[\s=|&;]+", node.value))
    return frozenset(found)


def shortcomings(blocks: list[Block]) -> list[str]:
    """Blocks that nobody runs and that don't say why."""
    found = []
    for block in blocks:
        if block.language not in RUNNING + DRAWN:
            found.append(f"{block.place}: nobody runs {block.language!r}")
        if block.language in DRAWN and block.commands:
            found.append(f"{block.place}: commands belong into a block of the language console")
        if block.language == "console" and not block.commands:
            found.append(f"{block.place}: no line begins with '$ '")
        if block.mark == "run by":
            files = [ROOT / name.strip() for name in block.why.split(",")]
            missing = [file for file in files if not file.is_file()]
            found += [f"{block.place}: there is no {file.relative_to(ROOT)}" for file in missing]
            found += [] if missing else [f"{block.place}: {block.why} does not run {line!r}" for line in not_run(block, files)]
        if block.mark == "shown:" and len(block.why.split()) < 3:
            found.append(f"{block.place}: {block.why!r} is no reason")
    return found
