"""Options that several commands share, so that they are spelt and explained in one way."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_DECIMAL = {"": 1, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000, "T": 1_000_000_000_000}
_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def byte_size(text: str) -> int:
    """An option's type: ``500MB``, ``1.5GiB``, or a number of bytes.

    Raises:
        click.BadParameter: It is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise click.BadParameter(f"{text!r} is no size. Write e.g. 500MB, 1GiB or 1000000.")
    return int(float(match[1]) * (_BINARY if match[3] else _DECIMAL)[match[2].upper()])


def json_option(function: F) -> F:
    """``--json`` → ``as_json``: one JSON document (or one line for each event) on stdout, errors included."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def config_options(function: F) -> F:
    """``--config FILE`` → ``config_path`` and ``--set KEY=VALUE`` → ``overrides``, as `trainbus.bus.config_file.load` wants them."""
    function = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting, e.g. --set bus.lost_after=30. Repeatable."
    )(function)
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The configuration file. Default: TRAINBUS_CONFIG, then ./trainbus.toml.",
    )(function)


def yes_option(function: F) -> F:
    """``--yes`` → ``yes``: don't ask."""
    return click.option("--yes", "-y", is_flag=True, help="Don't ask, do it.")(function)


def kind_option(function: F) -> F:
    """``--kind`` → ``kinds``: only these kinds of events."""
    return click.option("--kind", "-k", "kinds", multiple=True, metavar="KIND", help="Only events of this kind. Repeatable.")(function)


def run_option(function: F) -> F:
    """``--run`` → ``runs``: only these runs."""
    return click.option("--run", "-r", "runs", multiple=True, metavar="RUN", help="Only events of this run. Repeatable.")(function)
