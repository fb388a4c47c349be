"""The broker's process: ``python -m trainbus.bus.broker --root DIR [--config JSON] [--lifeline FD]``.

Prints one line of JSON (the connection) when it listens; errors go to stderr in words, with the exit code of their kind.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainbus.bus import home
from trainbus.bus.broker.loop import run_broker
from trainbus.bus.config import BusConfig
from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ConfigError, TrainbusError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until it is told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainbus.bus.broker", description="Run the broker (usually started by `trainbus up`).")
    parser.add_argument("--root", type=Path, default=None, help="state directory (default: TRAINBUS_HOME)")
    parser.add_argument("--config", default="{}", help="the [bus] section as JSON")
    parser.add_argument("--lifeline", type=int, default=None, metavar="FD", help="stop when this pipe's other end is closed")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    _allow_many_files()
    try:
        run_broker(_settings(chosen.config), chosen.root or home.home(), ready=_announce, lifeline=chosen.lifeline)
    except TrainbusError as error:
        print(f"{error.problem}\n{error.hint}" if error.hint else error.problem, file=sys.stderr)  # noqa: T201 - this is a program
        return error.exit_code
    return 0


def _allow_many_files() -> None:
    """Every connection is an open file, also those of strangers until their handshake has failed: take all that the system allows."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settings(text: str) -> BusConfig:
    try:
        return msgspec.json.decode(text.encode(), type=BusConfig)
    except DECODE_ERRORS as error:
        raise ConfigError(f"--config: {error}.", hint="It is the [bus] section as a JSON object.", key="bus") from error


def _announce(connection: home.Connection) -> None:
    print(msgspec.json.encode(connection).decode(), flush=True)  # noqa: T201 - the parent waits for this line


if __name__ == "__main__":
    sys.exit(main())
