"""``trainbus data``: look at training data before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from trainbus.cli.app import UsageError
from trainbus.cli.data_print import explain, print_example, print_lengths
from trainbus.cli.data_profile import profile
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import note, number, print_json, print_table, size, state, table
from trainbus.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainbus.trainer_node.config import TrainerConfig
    from trainbus.trainer_node.dataset.cache import Tokenised
    from trainbus.trainer_node.dataset.inspection import Inspection, Level
    from trainbus.trainer_node.dataset.statistics import Lengths
    from trainbus.trainer_node.preview import Preview


class Shown(msgspec.Struct):
    """What `data preview` says of one file."""

    file: str
    format: str
    lengths: Lengths
    examples: list[Preview]


@click.group(name="data")
def command() -> None:
    """Training data: is it readable, and what does a model learn from it?"""


command.add_command(profile)


@command.command()
@click.argument("files", nargs=-1, required=True)
@config_options
@click.option("--model", help="Also count tokens, with this model's tokenizer and chat template.")
@click.option("--against", metavar="FILE", help="An evaluation set: examples that it holds, too, are told. Default: trainer.eval_file.")
@click.option(
    "--level",
    type=click.Choice(["quick", "standard", "deep"]),
    help="quick: the first 1,000 rows; standard: every row; deep: every row's tokens, too.  [default: deep with --model, else standard]",
)
@click.option("--auto-adjust", is_flag=True, help="Write the max_length that cuts no example into trainbus.toml.")
@click.option("--output", "output_path", metavar="DIRECTORY", help="Output of an inbox: examples of files that it was trained on are told.")
@json_option
def check(
    files: tuple[str, ...],
    config_path: Path | None,
    overrides: tuple[str, ...],
    model: str | None,
    against: str | None,
    level: str | None,
    auto_adjust: bool,
    output_path: str | None,
    as_json: bool,
) -> int:
    """Read FILES as a training would. Exit code 7 when one of them, or a line, can't be used.

    Each row must have a known format: what is not known is refused. Told are bad lines, examples that are there twice, examples of the
    evaluation set, answers that stand in their questions, and (with a model) how long examples are in tokens, how many are cut at
    trainer.max_length, and what to set.
    """
    from trainbus.cli.train import need_libraries, read_settings

    settings = read_settings(config_path, overrides, {"model": model, "eval_file": against, "output_path": output_path})
    need_libraries()
    from trainbus.trainer_node.dataset.inspection import fingerprints_of, inspect
    from trainbus.trainer_node.dataset.reading import reading_of

    if (level == "deep" or auto_adjust) and not settings.model:
        raise UsageError("A deep look counts tokens, and no model is named.", hint="Add --model, or set trainer.model.")
    chosen = cast("Level", level or ("deep" if model or auto_adjust else "standard"))
    reading = reading_of(settings)
    evaluation = fingerprints_of(settings.eval_file, reading) if settings.eval_file and chosen != "quick" else None
    name = Path(settings.eval_file).name
    output = Path(settings.output).expanduser() if settings.output else None
    found = [inspect(file, reading, level=chosen, against=evaluation, against_name=name, output=output) for file in files]
    tokenizer = _tokenizer(settings) if chosen == "deep" else None
    for one in found:
        _judge(one, settings, tokenizer)
    if as_json:
        print_json(found)
    else:
        rows = (
            (one.file, state("ok" if one.ok else "failed"), one.format or None, number(one.examples), number(len(one.rejected)),
             number(one.repeated), size(one.bytes))
            for one in found
        )  # fmt: skip
        columns = ("file", "verdict", "format", "examples", "bad lines", "repeated", "size")
        print_table(table(*columns, rows=rows, right=columns[3:]), empty="")
        for one in found:
            explain(one)
    if auto_adjust:
        _adjust(found, settings, config_path)
    return 0 if all(one.ok for one in found) else DataError.exit_code


def _adjust(found: list[Inspection], settings: TrainerConfig, config_path: Path | None) -> None:
    """Set the length that the longest example needs, where one is cut."""
    from trainbus.bus.config_file import FILE_NAME, find
    from trainbus.cli.config_edit import write_setting

    wanted = max((one.tokens.suggested for one in found if one.tokens is not None and one.tokens.over), default=0)
    if not wanted:
        note(f"No example is longer than max_length = {settings.max_length:,}: nothing is changed.")
        return
    file = find(config_path)
    if file is None:
        raise ConfigError(
            f"There is no {FILE_NAME} to change.", hint=f"`trainbus init` writes one; or use --set trainer.max_length={wanted}."
        )
    write_setting(file, "trainer", "max_length", wanted)
    note(f"{file}: trainer.max_length was {settings.max_length:,} and is {wanted:,} now.")


def _tokenizer(settings: TrainerConfig) -> Any:
    from trainbus.cli.train import quiet_libraries
    from trainbus.trainer_node.model import check as check_model
    from trainbus.trainer_node.model import load_tokenizer

    check_model(settings)
    quiet_libraries()
    return load_tokenizer(settings)


def _tokenised(file: str, settings: TrainerConfig, tokenizer: Any) -> Tokenised:
    """As a training would have it, and where a training will find it."""
    from trainbus.trainer_node.dataset.cache import TokenCache, recipe_of
    from trainbus.trainer_node.dataset.reading import reading_of

    cache = TokenCache(limit_bytes=int(settings.token_cache_gb * 1e9), note=note)
    return cache.get(recipe_of(file, tokenizer, settings.max_length, tolerant=True, reading=reading_of(settings)), tokenizer)


def _examples(tokenised: Tokenised, settings: TrainerConfig, tokenizer: Any, count: int, line: int | None) -> list[Preview]:
    from trainbus.trainer_node import data
    from trainbus.trainer_node.dataset.reading import reading_of
    from trainbus.trainer_node.preview import preview as show

    lines = {line} if line is not None else set(tokenised.dataset.lines[:count].tolist())
    wanted = data.load(settings.data, reading_of(settings), tolerant=True, lines=lines).examples
    if not wanted:
        raise _no_example(settings.data, line)
    return [show(example, tokenizer, settings.max_length, source=settings.data) for example in wanted]


def _rows(tokenised: Tokenised, settings: TrainerConfig, tokenizer: Any, count: int, line: int | None) -> list[Preview]:
    """The first rows, or the one that holds a line."""
    from trainbus.trainer_node.dataset.packing import Packed
    from trainbus.trainer_node.preview import preview_row

    packed = Packed(tokenised.dataset, settings.max_length)
    rows = [index for index in range(len(packed)) if line is None or line in packed.lines[packed.members(index)]][:count]
    if not rows:
        raise _no_example(settings.data, line)
    return [preview_row(packed, index, tokenizer) for index in rows]


def _no_example(file: str, line: int | None) -> DataError:
    hint = "`trainbus data check` tells which lines are bad, and which are left out."
    return DataError(f"{file} has no example in line {line}.", hint=hint, file=file, line=line)


def _judge(one: Inspection, settings: TrainerConfig, tokenizer: Any) -> None:
    """Count tokens, and see what the settings would refuse."""
    from trainbus.trainer_node.dataset.statistics import lengths, require_masked, require_whole

    if tokenizer is not None and not one.problem:
        try:
            tokenised = _tokenised(one.file, settings, tokenizer)
            one.tokens = lengths(tokenised.dataset, settings.max_length, row_format=one.format)
            require_masked(tokenised.dataset, one.file, one.format)
            if settings.too_long == "refuse":
                require_whole(tokenised.dataset, one.file, settings.max_length)
        except DataError as error:
            one.ok, one.problem, one.hint = False, error.problem, error.hint
    refused = (settings.duplicates == "refuse" and one.repeated + one.trained) or (settings.leaks == "refuse" and one.leaked)
    one.ok = one.ok and not refused


@command.command()
@click.argument("file")
@config_options
@click.option("--model", help="Whose tokenizer and chat template are used. Default: trainer.model.")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True, help="Examples to show.")
@click.option("--packed", is_flag=True, help="Show rows of packed examples, as with trainer.packing; │ stands between examples.")
@click.option("--line", type=click.IntRange(min=1), help="Show the example of this line only.")
@json_option
def preview(
    file: str,
    config_path: Path | None,
    overrides: tuple[str, ...],
    model: str | None,
    count: int,
    packed: bool,
    line: int | None,
    as_json: bool,
) -> None:
    """Show what a model is given of FILE: tokens that carry loss stand out, the others are context.

    Lengths in tokens come first: what is longer than trainer.max_length is cut there.
    """
    from trainbus.cli.train import need_libraries, read_settings

    settings = read_settings(config_path, overrides, {"data": file, "model": model})
    need_libraries()
    from trainbus.trainer_node.dataset.statistics import lengths

    tokenizer = _tokenizer(settings)
    tokenised = _tokenised(file, settings, tokenizer)
    shown = Shown(
        file,
        tokenised.format,
        lengths(tokenised.dataset, settings.max_length, row_format=tokenised.format),
        (_rows if packed else _examples)(tokenised, settings, tokenizer, count, line),
    )
    if as_json:
        print_json(shown)
        return
    print_lengths(file, shown.format, shown.lengths)
    for example in shown.examples:
        print_example(example, settings.max_length)
