"""Which scorer decides that an answer is correct: built in, or anybody's."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TypeAlias

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ConfigError, PluginError
from trainbus.judging.matching import SCORERS, normalise
from trainbus.plugins.inference.config import ExamSet

Scorer: TypeAlias = Callable[[str, str | None], bool | None]
"""Takes an answer and what was expected, or None; says whether it is right, or None when it can't tell."""

GROUP = "trainbus.scorers"
"""Entry-point group of third parties' scorers."""
MULTIPLE_CHOICE = "multiple_choice"
WITHOUT_EXPECTED = ("regular_expression", "json_valid")

FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)


def regular_expression(pattern: re.Pattern[str]) -> Scorer:
    """Right when the pattern is found; where something is expected, its last find (its first group, if it has one) must be that."""

    def scorer(answer: str, expected: str | None) -> bool | None:
        found = [match.group(1 if pattern.groups else 0) or "" for match in pattern.finditer(answer)]
        if expected is None or not found:
            return bool(found)
        return normalise(found[-1]) == normalise(expected)

    return scorer


def json_valid(answer: str, expected: str | None) -> bool | None:
    """Right when the answer is JSON, with or without a fence around it; that it is the expected JSON is not asked."""
    fenced = FENCE.match(answer)
    try:
        msgspec.json.decode(fenced.group(1) if fenced else answer)
    except DECODE_ERRORS:
        return False
    return True


def chosen(answer: str, expected: str | None) -> bool | None:
    """Right when the choice that the model finds likeliest is the expected one."""
    return None if expected is None else answer == expected


def find_scorer(one: ExamSet) -> Scorer:
    """The scorer that a set names.

    Raises:
        ConfigError: Nobody has a scorer of this name, or its pattern is none.
        PluginError: A third party's scorer can't be imported.
    """
    if one.scorer in SCORERS:
        built_in = SCORERS[one.scorer]
        return lambda answer, expected: None if expected is None else built_in(answer, expected)
    if one.scorer == "regular_expression":
        return regular_expression(_pattern(one))
    if one.scorer in ("json_valid", MULTIPLE_CHOICE):
        return json_valid if one.scorer == "json_valid" else chosen
    return _foreign(one.scorer)


def _pattern(one: ExamSet) -> re.Pattern[str]:
    try:
        if one.pattern:
            return re.compile(one.pattern, re.MULTILINE)
        what = "is empty"
    except re.error as error:
        what = f"is {one.pattern!r}, which is no regular expression: {error}"
    raise ConfigError(
        f"plugin.inference.pattern {what}.",
        hint="The scorer regular_expression needs one, such as pattern = 'Answer: *(\\S+)'.",
        key="plugin.inference.pattern",
        found=one.pattern,
    )


def _foreign(name: str) -> Scorer:
    """An entry point of `GROUP`, or ``module:function``."""
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None and ":" not in name:
        allowed = sorted({*SCORERS, *WITHOUT_EXPECTED, MULTIPLE_CHOICE, *entry_points(group=GROUP).names})
        raise ConfigError(
            f"plugin.inference.scorer is {name!r}, and there is no scorer of that name.",
            hint=f"There are {', '.join(allowed)}; or name a function as module:function.",
            key="plugin.inference.scorer",
            found=name,
            allowed=allowed,
        )
    module, _, attribute = name.partition(":")
    try:
        loaded = found.load() if found is not None else getattr(importlib.import_module(module), attribute)
    except Exception as error:
        problem = f"The scorer {name!r} can't be imported: {type(error).__name__}: {error}."
        raise PluginError(problem, hint="Install its package beside trainbus, or correct plugin.inference.scorer.", plugin=name) from error
    if not callable(loaded):
        raise PluginError(f"The scorer {name!r} is no function.", hint="It takes an answer and the expected text or None.", plugin=name)
    return loaded  # type: ignore[no-any-return]
