"""Options that several commands share, so that they are spelt and explained in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


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
