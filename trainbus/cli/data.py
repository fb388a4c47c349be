"""``trainbus data``: look at training data before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.text import Text

from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import note, number, print_json, print_table, size, state, stdout, table
from trainbus.errors import DataError

if TYPE_CHECKING:
    from trainbus.trainer_node.config import TrainerConfig
    from trainbus.trainer_node.dataset.cache import Tokenised
    from trainbus.trainer_node.dataset.inspection import Inspection
    from trainbus.trainer_node.dataset.statistics import Lengths
    from trainbus.trainer_node.preview import Preview

SHOWN_LINES = 5
"""So many lines of each kind are printed; --json has more."""


class Shown(msgspec.Struct):
    """What `data preview` says of one file."""

    file: str
    format: str
    lengths: Lengths
    examples: list[Preview]


@click.group(name="data")
def command() -> None:
    """Training data: is it readable, and what does a model learn from it?"""


@command.command()
@click.argument("files", nargs=-1, required=True)
@config_options
@click.option("--model", help="Also count tokens, with this model's tokenizer and chat template.")
@click.option("--against", metavar="FILE", help="An evaluation set: examples that it holds, too, are told. Default: trainer.eval_file.")
@click.option("--output", "output_path", metavar="DIRECTORY", help="Output of an inbox: examples of files that it was trained on are told.")
@json_option
def check(
    files: tuple[str, ...],
    config_path: Path | None,
    overrides: tuple[str, ...],
    model: str | None,
    against: str | None,
    output_path: str | None,
    as_json: bool,
) -> int:
    """Read FILES as a training would. Exit code 7 when one of them, or a line, can't be used.

    Told are bad lines, examples that are there twice, examples of the evaluation set, answers that stand in their questions, and (with a
    model) how long examples are in tokens, how many are cut at trainer.max_length, and what to set.
    """
    from trainbus.cli.train import need_libraries, read_settings

    settings = read_settings(config_path, overrides, {"model": model, "eval_file": against, "output_path": output_path})
    need_libraries()
    from trainbus.trainer_node.dataset.inspection import fingerprints_of, inspect

    evaluation = fingerprints_of(settings.eval_file, settings.data_split, settings.columns) if settings.eval_file else None
    name = Path(settings.eval_file).name
    output = Path(settings.output).expanduser() if settings.output else None
    found = [inspect(file, settings.data_split, settings.columns, against=evaluation, against_name=name, output=output) for file in files]
    tokenizer = _tokenizer(settings) if model else None
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
            _explain(one)
    return 0 if all(one.ok for one in found) else DataError.exit_code


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

    cache = TokenCache(limit_bytes=int(settings.token_cache_gb * 1e9), note=note)
    options: dict[str, Any] = {"split": settings.data_split, "columns": settings.columns}
    return cache.get(recipe_of(file, tokenizer, settings.max_length, tolerant=True, **options), tokenizer)


def _examples(tokenised: Tokenised, settings: TrainerConfig, tokenizer: Any, count: int, line: int | None) -> list[Preview]:
    from trainbus.trainer_node import data
    from trainbus.trainer_node.preview import preview as show

    lines = {line} if line is not None else set(tokenised.dataset.lines[:count].tolist())
    wanted = data.load(settings.data, settings.data_split, tolerant=True, columns=settings.columns, lines=lines).examples
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
    from trainbus.trainer_node.dataset.statistics import lengths

    if tokenizer is not None and not one.problem:
        try:
            tokenised = _tokenised(one.file, settings, tokenizer)
        except DataError as error:
            one.ok, one.problem, one.hint = False, error.problem, error.hint
        else:
            one.tokens = lengths(tokenised.dataset, settings.max_length, row_format=one.format)
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
    _print_lengths(file, shown.format, shown.lengths)
    for example in shown.examples:
        _print_example(example, settings.max_length)


def _explain(one: Inspection) -> None:
    if one.problem:
        note(f"{one.problem}\n{one.hint}".strip())
    remarks = {
        "bad lines": [f"line {rejected.line}: {rejected.reason}" for rejected in one.rejected],
        "examples are there twice": [str(match) for match in one.matches],
        "questions hold their answer": [f"line {told.line}: {told.how}" for told in one.answers],
    }
    counts = (len(one.rejected), one.repeated + one.leaked + one.trained, one.told)
    for count, (what, named) in zip(counts, remarks.items(), strict=True):
        for remark in named[:SHOWN_LINES]:
            note(f"{one.file}, {remark}")
        if count > SHOWN_LINES:
            note(f"{one.file}: {count:,} {what}")
    if one.leaked:
        note(f"{one.file}: {one.leaked:,} examples are in the evaluation set, too")
    if one.trained:
        note(f"{one.file}: {one.trained:,} examples were trained on in an earlier file")
    if one.tokens is not None:
        _print_lengths(one.file, one.format, one.tokens)


def _print_lengths(file: str, row_format: str, told: Lengths) -> None:
    console = stdout()
    head = f"{file}: {told.examples:,} examples, format {row_format}, {told.total:,} tokens, {told.learned:,} with loss"
    percentiles = f"p50 {told.p50:,}, p95 {told.p95:,}, p99 {told.p99:,}, longest {told.longest:,}"
    console.print(f"{head}\ntokens an example: mean {told.mean:,.0f}, {percentiles}", soft_wrap=True)
    for advice in told.advice:
        console.print(Text(advice, style="yellow"), soft_wrap=True)


def _print_example(example: Preview, max_length: int) -> None:
    """Loss by colour, and by brackets for who has none."""
    console = stdout()
    cut = f", cut at {max_length:,}" if example.tokens > max_length else ""
    where = f"line{'s' if len(example.lines) > 1 else ''} {', '.join(map(str, example.lines))}"
    console.print(Text(f"\n{where}: {example.tokens:,} tokens, {example.learned:,} with loss{cut}", style="bold"))
    text = Text()
    learned = False
    for place, piece in enumerate(example.pieces):
        if piece.begins and place:
            text.append("⟧│" if learned else "│", style="bold")
            learned = False
        if piece.learned != learned:
            text.append("⟦" if piece.learned else "⟧", style="bold green")
            learned = piece.learned
        text.append(piece.text, style="green" if piece.learned else "dim")
    if learned:
        text.append("⟧", style="bold green")
    console.print(text, soft_wrap=True)
