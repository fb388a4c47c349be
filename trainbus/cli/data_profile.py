"""``trainbus data profile``: data as a profile dresses them, and back."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from trainbus.cli.options import config_options
from trainbus.errors import DataError


@click.command()
@click.argument("file")
@config_options
@click.option("--decode", is_flag=True, help="The other way: FILE is dressed, and is written plain.")
def profile(file: str, config_path: Path | None, overrides: tuple[str, ...], decode: bool) -> None:
    """Write the examples of FILE as trainer.profile dresses them, as JSON Lines with `messages`.

    A training dresses data by itself; this is for looking at it, and for other programs. What --decode makes of it are the examples as
    they were.
    """
    from trainbus.cli.train import read_settings
    from trainbus.trainer_node.dataset.reading import Reading, reading_of
    from trainbus.trainer_node.dataset.source import Source
    from trainbus.trainer_node.formats import RowError

    settings = read_settings(config_path, overrides, {"data": file})
    reading = reading_of(settings)
    plain = Reading(split=reading.split, columns=reading.columns, schema=reading.schema)
    out = sys.stdout.buffer
    for example in Source(file, plain):
        try:
            changed = settings.profile.decode(example) if decode else settings.profile.encode(example)
        except RowError as error:
            problem = f"{file}, line {example.line}: {error.what}. Found: {error.found}"
            raise DataError(problem, hint="Was it dressed with this profile?", file=file, line=example.line) from error
        turns = [{"role": turn.role, "content": turn.content} for turn in changed.turns]
        out.write(msgspec.json.encode({"messages": turns} if turns else {"text": changed.text}) + b"\n")
    out.flush()
