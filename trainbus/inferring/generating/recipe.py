"""What a model is asked for: prompts made of a template and of seeds. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from trainbus.errors import ConfigError
from trainbus.inferring.asking import Prompt
from trainbus.trainer_node.formats import Example

Take: TypeAlias = Literal["examples", "answer"]

EXAMPLES, COUNT = "examples", "count"
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")

DEFAULT_TEMPLATE = """\
Here are examples of training data, one JSON object a line:

{examples}

Write {count} new ones of the same kind, each different from these and from each other, correct, and with exactly the same keys. \
Answer with one JSON object a line and nothing else."""


class Seed(Struct, frozen=True):
    """One example to begin from: its row, what it means, and its line in the file of seeds."""

    row: dict[str, Any]
    example: Example
    line: int


class Asking(Struct, frozen=True):
    """One prompt, and the seeds that are in it."""

    prompt: Prompt
    seeds: tuple[Seed, ...]


class Recipe(Struct, frozen=True, kw_only=True):
    """How prompts are made.

    Args:
        take: ``examples``: the answer holds new examples as JSON. ``answer``: the prompt and the answer to it are the new example.
        template: With ``{examples}`` (some seeds, one JSON object a line) and ``{count}``, or with ``{KEY}`` for the text that one seed
            has under a key. Empty: `DEFAULT_TEMPLATE`; for ``answer`` the seed's own question.
        shown: Seeds that one prompt shows as examples.
        each: New examples that one prompt asks for.
        system: The system message; empty for none.
        seed: Of the drawing of seeds: the same gives the same prompts.
    """

    take: Take = "examples"
    template: str = ""
    shown: int = 3
    each: int = 5
    system: str = ""
    seed: int = 0

    @property
    def text(self) -> str:
        """The template that is used; empty where seeds ask for themselves."""
        return self.template or (DEFAULT_TEMPLATE if self.take == "examples" else "")


def check(recipe: Recipe, seeds: Sequence[Seed]) -> None:
    """Refuse a template that can't be filled in.

    Raises:
        ConfigError: It names what no seed has, or nothing at all.
    """
    named = set(PLACEHOLDER.findall(recipe.text))
    keys = {key for seed in seeds for key, value in seed.row.items() if isinstance(value, str)}
    allowed = {EXAMPLES, COUNT} | keys if recipe.take == "examples" else keys
    listed = ", ".join(f"{{{name}}}" for name in sorted(allowed))
    if unknown := sorted(named - allowed):
        problem = f"The template names {{{unknown[0]}}}, which can't be filled in."
        raise ConfigError(problem, hint=f"It may name {listed}.", key="--template", found=unknown[0], allowed=sorted(allowed))
    if recipe.text and not named - {COUNT}:
        raise ConfigError("The template names no seeds.", hint=f"It must name one of {listed}.", key="--template")


def askings(recipe: Recipe, seeds: Sequence[Seed], count: int, drawn: Random) -> list[Asking]:
    """``count`` prompts, each with seeds of its own drawing."""
    return [_asking(recipe, drawn.sample(seeds, min(_needed(recipe), len(seeds)))) for _ in range(count)]


def _needed(recipe: Recipe) -> int:
    return recipe.shown if EXAMPLES in PLACEHOLDER.findall(recipe.text) else 1


def _asking(recipe: Recipe, seeds: Sequence[Seed]) -> Asking:
    before = [{"role": "system", "content": recipe.system}] if recipe.system else []
    if not recipe.text:
        return Asking([*before, *_question(seeds[0].example)], (seeds[0],))
    lines = "\n".join(msgspec.json.encode(seed.row).decode() for seed in seeds)
    values: Mapping[str, Any] = {**seeds[0].row, EXAMPLES: lines, COUNT: recipe.each}
    text = PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), recipe.text)
    return Asking([*before, {"role": "user", "content": text}], tuple(seeds))


def _question(example: Example) -> list[dict[str, str]]:
    """The turns before the last answer; a text without turns is what is asked."""
    if not example.turns:
        return [{"role": "user", "content": example.text}]
    last = max(place for place, turn in enumerate(example.turns) if turn.role == "assistant")
    return [{"role": turn.role, "content": turn.content} for turn in example.turns[:last]]
