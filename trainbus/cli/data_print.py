"""What ``trainbus data`` says of files and examples, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from trainbus.cli.output import note, stdout

if TYPE_CHECKING:
    from trainbus.trainer_node.dataset.inspection import Inspection
    from trainbus.trainer_node.dataset.statistics import Lengths
    from trainbus.trainer_node.preview import Preview

SHOWN_LINES = 5
"""So many lines of each kind are printed; --json has more."""


def explain(one: Inspection) -> None:
    """What is wrong with a file, and what a person should know of it."""
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
        print_lengths(one.file, one.format, one.tokens)


def print_lengths(file: str, row_format: str, told: Lengths) -> None:
    """How long examples are in tokens, and what to set."""
    console = stdout()
    head = f"{file}: {told.examples:,} examples, format {row_format}, {told.total:,} tokens, {told.learned:,} with loss"
    percentiles = f"p50 {told.p50:,}, p95 {told.p95:,}, p99 {told.p99:,}, longest {told.longest:,}"
    console.print(f"{head}\ntokens an example: mean {told.mean:,.0f}, {percentiles}", soft_wrap=True)
    for advice in told.advice:
        console.print(Text(advice, style="yellow"), soft_wrap=True)


def print_example(example: Preview, max_length: int) -> None:
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
