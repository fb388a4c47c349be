"""The code blocks of the pages, and what becomes of each in the tests.

A block runs, by its language, unless a comment right before it says otherwise:

- ``<!-- run by tests/....py -->``: that test runs these lines, or the same steps with what they need.
- ``<!-- shown: REASON -->``: it can't run in a test, for this reason. Commands of ours in it are still checked against the parser.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

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
        if block.mark == "run by" and not (ROOT / block.why).is_file():
            found.append(f"{block.place}: there is no {block.why}")
        if block.mark == "shown:" and len(block.why.split()) < 3:
            found.append(f"{block.place}: {block.why!r} is no reason")
    return found
