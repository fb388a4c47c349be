"""``trainbus checkpoints compare``: whether one checkpoint answers better than another, or whether that is noise."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from trainbus.bus.client import Client
from trainbus.bus.events import Sample
from trainbus.cli.history import known_run, running_run
from trainbus.cli.options import json_option
from trainbus.cli.output import number, print_json, print_table, stdout, table
from trainbus.errors import RefusedError
from trainbus.judging.statistics import Comparison, compare, wilson

CONNECT_TIMEOUT = 5.0
"""Seconds that the bus has to answer."""

Answers = dict[str, dict[str, bool]]
"""Verdicts by set and example."""


@click.command(name="compare")
@click.argument("before")
@click.argument("after")
@click.option("--run", "run", metavar="RUN", help="The run of a checkpoint that is given by its step. Default: the one that is running.")
@click.option("--dataset", help="Only this set of questions.")
@json_option
def compare_(before: str, after: str, run: str | None, dataset: str | None, as_json: bool) -> None:
    """Compare the answers of two checkpoints, question by question. BEFORE and AFTER are ids or steps.

    The inference plugin has asked both the same questions. `better` answers became right, `worse` became wrong; the p-value is how
    often chance alone splits them as unevenly (exact McNemar test). From 0.05 on the difference is noise.
    """
    with Client(timeout=CONNECT_TIMEOUT) as client:
        first, second = (_answers(client, name, run) for name in (before, after))
    shared = [name for name in first[1] if name in second[1] and dataset in (None, name)]
    compared = {name: told for name in shared if (told := compare(first[1][name], second[1][name])) is not None}
    if not compared:
        asked = ", ".join(sorted({*first[1], *second[1]})) or "nothing"
        raise RefusedError(
            f"{first[0]} and {second[0]} have no judged question{f' of {dataset}' if dataset else ''} in common (asked: {asked}).",
            hint="Let the inference plugin examine both with the same set.",
            code="unknown",
        )
    if as_json:
        print_json({"before": first[0], "after": second[0], "datasets": {name: _told(told) for name, told in compared.items()}})
        return
    rows = (
        (name, number(told.judged), _share(told.before, told.judged), _share(told.after, told.judged), number(told.better),
         number(told.worse), f"{told.p_value:.3g}", _verdict(told))
        for name, told in compared.items()
    )  # fmt: skip
    made = table("set", "judged", "before", "after", "better", "worse", "p", "says", rows=rows, right=("judged", "better", "worse", "p"))
    print_table(made, empty="")
    stdout().print(f"before: {first[0]}\nafter:  {second[0]}", highlight=False)


def _answers(client: Client, name: str, run: str | None) -> tuple[str, Answers]:
    """The checkpoint's id, and what is known of its answers.

    Raises:
        RefusedError: Nothing is.
    """
    step = int(name) if name.isdigit() else None
    owner = name.rpartition("@")[0] if step is None else (known_run(client, run) if run else running_run(client)).run
    identity, answers = "", Answers()
    for event in client.events(kinds=["sample"], runs=[owner]):
        if not isinstance(event, Sample) or not event.checkpoint or event.correct is None:
            continue
        if event.checkpoint == name or event.step == step:
            if event.checkpoint != identity:
                identity, answers = event.checkpoint, {}  # a resumed run may have saved the step again: the newest counts
            answers.setdefault(event.dataset, {})[event.example] = event.correct
    if identity:
        return identity, answers
    what = f"the checkpoint {name}" if step is None else f"a checkpoint of step {step} of {owner}"
    raise RefusedError(
        f"The journal has no judged answers of {what}.",
        hint="`trainbus checkpoints list` shows ids and steps; the inference plugin must have examined it.",
        code="unknown",
    )


def _share(share: float, judged: int) -> str:
    low, high = wilson(round(share * judged), judged)
    return f"{share:.1%} ({low:.1%} to {high:.1%})"


def _verdict(told: Comparison) -> str:
    return "noise" if told.noise else "better" if told.better > told.worse else "worse"


def _told(told: Comparison) -> dict[str, Any]:
    return {**msgspec.to_builtins(told), "says": _verdict(told)}
