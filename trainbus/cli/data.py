"""``trainbus data``: look at training data before it is trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.text import Text

from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import note, number, print_json, print_table, size, state, stdout, table
from trainbus.errors import DataError

if TYPE_CHECKING:
    from trainbus.trainer_node.preview import Lengths, Preview

SHOWN_LINES = 5
"""So many bad lines of a file are printed; --json has all."""


class Verdict(msgspec.Struct):
    """What `data check` says of one file."""

    file: str
    ok: bool
    format: str = ""
    examples: int = 0
    repeated: int = 0
    bytes: int = 0
    problem: str = ""
    hint: str = ""
    rejected: list[Any] = []


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
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def check(files: tuple[Path, ...], as_json: bool) -> int:
    """Read FILES as a training would. Exit code 7 when one of them, or a line, can't be used."""
    verdicts = [_verdict(file) for file in files]
    if as_json:
        print_json(verdicts)
    else:
        rows = (
            (one.file, state("ok" if one.ok else "failed"), one.format or None, number(one.examples), number(len(one.rejected)),
             number(one.repeated), size(one.bytes))
            for one in verdicts
        )  # fmt: skip
        columns = ("file", "verdict", "format", "examples", "bad lines", "repeated", "size")
        print_table(table(*columns, rows=rows, right=columns[3:]), empty="")
        for one in verdicts:
            _explain(one)
    return 0 if all(one.ok for one in verdicts) else DataError.exit_code


@command.command()
@click.argument("file")
@config_options
@click.option("--model", help="Whose tokenizer and chat template are used. Default: trainer.model.")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True, help="Examples to show.")
@click.option("--line", type=click.IntRange(min=1), help="Show the example of this line only.")
@json_option
def preview(
    file: str, config_path: Path | None, overrides: tuple[str, ...], model: str | None, count: int, line: int | None, as_json: bool
) -> None:
    """Show what a model is given of FILE: tokens that carry loss stand out, the others are context.

    Lengths in tokens come first: what is longer than trainer.max_length is cut there.
    """
    from trainbus.cli.train import need_libraries, quiet_libraries, read_settings
    from trainbus.trainer_node import data
    from trainbus.trainer_node.model import check as check_model
    from trainbus.trainer_node.model import load_tokenizer
    from trainbus.trainer_node.preview import lengths
    from trainbus.trainer_node.preview import preview as show

    settings = read_settings(config_path, overrides, {"data": file, "model": model})
    loaded = data.load(file, settings.data_split, tolerant=True)
    need_libraries()
    check_model(settings)
    quiet_libraries()
    tokenizer = load_tokenizer(settings)
    wanted = [example for example in loaded.examples if line is None or example.line == line][: count if line is None else 1]
    if not wanted:
        raise DataError(
            f"{file} has no example in line {line}.", hint="`trainbus data check` tells which lines are bad.", file=file, line=line
        )
    shown = Shown(
        file,
        loaded.format,
        lengths(loaded.examples, tokenizer, settings.max_length, source=file),
        [show(example, tokenizer, settings.max_length, source=file) for example in wanted],
    )
    if as_json:
        print_json(shown)
        return
    _print_lengths(shown)
    for example in shown.examples:
        _print_example(example, settings.max_length)


def _verdict(file: Path) -> Verdict:
    from trainbus.trainer_node import data

    try:
        loaded = data.load_file(file, tolerant=True) if file.exists() else data.load(str(file))
    except DataError as error:
        return Verdict(str(file), False, problem=error.problem, hint=error.hint, bytes=file.stat().st_size if file.is_file() else 0)
    seen = Counter(msgspec.structs.replace(example, line=0) for example in loaded.examples)
    return Verdict(
        str(file),
        not loaded.rejected,
        loaded.format,
        len(loaded.examples),
        sum(times - 1 for times in seen.values()),
        file.stat().st_size if file.is_file() else 0,
        rejected=loaded.rejected,
    )


def _explain(verdict: Verdict) -> None:
    if verdict.problem:
        note(f"{verdict.problem}\n{verdict.hint}".strip())
    for rejected in verdict.rejected[:SHOWN_LINES]:
        note(f"{verdict.file}, line {rejected.line}: {rejected.reason}")
    if len(verdict.rejected) > SHOWN_LINES:
        note(f"{verdict.file}: {len(verdict.rejected) - SHOWN_LINES:,} more bad lines")


def _print_lengths(shown: Shown) -> None:
    told = shown.lengths
    console = stdout()
    head = f"{shown.file}: {told.examples:,} examples, format {shown.format}, {told.total:,} tokens, {told.learned:,} with loss"
    percentiles = f"p50 {told.p50:,}, p95 {told.p95:,}, p99 {told.p99:,}, longest {told.longest:,}"
    console.print(f"{head}\ntokens an example: mean {told.mean:,.0f}, {percentiles}", soft_wrap=True)
    if told.over:
        word = "is" if told.over == 1 else "are"
        console.print(Text(f"{told.over:,} {word} longer than max_length = {told.max_length:,} and will be cut there", style="yellow"))


def _print_example(example: Preview, max_length: int) -> None:
    """Loss by colour, and by brackets for who has none."""
    console = stdout()
    cut = f", cut at {max_length:,}" if example.tokens > max_length else ""
    console.print(Text(f"\nline {example.line}: {example.tokens:,} tokens, {example.learned:,} with loss{cut}", style="bold"))
    text = Text()
    learned = False
    for piece in example.pieces:
        if piece.learned != learned:
            text.append("⟦" if piece.learned else "⟧", style="bold green")
            learned = piece.learned
        text.append(piece.text, style="green" if piece.learned else "dim")
    if learned:
        text.append("⟧", style="bold green")
    console.print(text, soft_wrap=True)
