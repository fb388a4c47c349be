"""Options of the commands that ask models: the server, and how answers are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from trainbus.errors import ConfigError
from trainbus.inferring.asking import DEFAULT_TOKENS
from trainbus.inferring.server import DEFAULT_SECONDS, Server

F = TypeVar("F", bound=Callable[..., Any])


def server_options(function: F) -> F:
    """``--server``, ``--api-key-env`` and ``--timeout``."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=DEFAULT_SECONDS,
            show_default=True,
            help="Seconds that a server has for a whole answer.",
        ),
        click.option("--api-key-env", metavar="NAME", default="", help="The environment variable that holds the server's key."),
        click.option("--server", metavar="URL", help="An OpenAI-compatible server, as http://HOST:PORT or http://HOST:PORT/v1."),
    ):
        function = option(function)
    return function


def open_server(url: str, api_key_env: str, timeout: float) -> Server:
    """The server that options name.

    Raises:
        ConfigError: The address is none, or the variable is not set.
    """
    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise ConfigError(f"The environment variable {api_key_env} is not set.", hint="It holds the server's key.", key="--api-key-env")
    return Server(url, key=key, timeout=timeout)


def sampling_options(temperature: float) -> Callable[[F], F]:
    """``--max-tokens``, ``--temperature`` with this default, and the others that `Sampling` has."""
    greedy = "0 is greedy.  [0 to 2; what is outside is clamped]"
    options = (
        click.option("--max-tokens", type=click.IntRange(min=1), help=f"The longest answer.  [default: {DEFAULT_TOKENS}]"),
        click.option("--temperature", type=float, default=temperature, show_default=True, help=greedy),
        click.option("--top-k", type=int, help="Draw from the k likeliest tokens; 1 is greedy."),
        click.option("--top-p", type=float, help="Draw from the likeliest tokens that make up this share.  [0 to 1]"),
        click.option("--repetition-penalty", type=float, help="Above 1, what was said becomes less likely.  [0.1 to 10]"),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text. Repeatable."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
