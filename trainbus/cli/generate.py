"""``trainbus generate``: a model writes new training data into the inbox."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast, get_args

import click
from msgspec import Struct

from trainbus.cli.app import UsageError
from trainbus.cli.infer_models import Where, opened
from trainbus.cli.infer_options import open_server, sampling_options, server_options
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import json_line, note, number, print_error, print_json, progress, stdout, table
from trainbus.errors import ConfigError, DataError, TrainbusError
from trainbus.inferring.asking import Sampling
from trainbus.inferring.generating.delivery import RECORDS, Lineage, deliver, digest
from trainbus.inferring.generating.job import Job
from trainbus.inferring.generating.known import SEEDS, Known, data_files
from trainbus.inferring.generating.recipe import Recipe, Seed, Take, check
from trainbus.inferring.generating.refill import Refill
from trainbus.inferring.generating.seeds import load_seeds
from trainbus.trainer_node.formats import Format
from trainbus.trainer_node.inbox.daemon import queue_file
from trainbus.trainer_node.inbox.queue import PRIORITIES, WAITING, Queue, new_id

LOOK_SECONDS = 1.0
"""Between two looks at how many files wait."""


class _Order(Struct, frozen=True, kw_only=True):
    """All that stays the same from job to job."""

    model: str
    where: Where
    recipe: Recipe
    sampling: Sampling
    seeds: list[Seed]
    seeds_file: Path
    wanted: Format
    count: int
    inbox: Path
    folder: str


@click.command(name="generate")
@click.argument("seeds", type=click.Path(path_type=Path))
@click.option("--count", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="New examples to make.")
@click.option("--model", "-m", "model", default="", metavar="NAME", help="Who writes them, as for `trainbus infer`.")
@click.option(
    "--take",
    type=click.Choice(get_args(Take)),
    default="examples",
    show_default=True,
    help="What of an answer is new: the examples in it, as JSON; or prompt and answer together are one.",
)
@click.option("--template", type=click.Path(path_type=Path), help="A text file with the prompt; see above.")
@click.option("--shown", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds in each prompt.")
@click.option("--each", type=click.IntRange(min=1), default=5, show_default=True, help="Examples that each prompt asks for.")
@click.option("--system", metavar="TEXT", default="", help="The system message.")
@sampling_options(temperature=0.8)
@server_options
@config_options
@click.option("--inbox", metavar="DIRECTORY", help="The inbox; default: trainer.inbox.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="Of the file in the queue.")
@click.option("--below", type=click.IntRange(min=0), metavar="FILES", help="Go on: make more whenever no more files than this wait.")
@click.option("--cooldown", type=click.FloatRange(min=0), default=600.0, show_default=True, help="With --below: seconds between two jobs.")
@json_option
def command(
    seeds: Path,
    count: int,
    model: str,
    take: str,
    template: Path | None,
    shown: int,
    each: int,
    system: str,
    server: str | None,
    api_key_env: str,
    timeout: float,
    config_path: Path | None,
    overrides: tuple[str, ...],
    inbox: str | None,
    priority: str,
    below: int | None,
    cooldown: float,
    as_json: bool,
    stop: tuple[str, ...],
    **drawn: Any,
) -> int:
    """Let a model write new examples like those in SEEDS, and put them into the inbox.

    SEEDS is a file in any format that training reads; new examples have the same format. They are validated as training would, and
    repetitions are left out: of seeds, of each other, and of what is in the inbox or was. The file is there whole or not at all; each
    of its rows says by `lineage` which model and which seeds it comes from, and INBOX/.generated/JOB.json tells all of the job.

    The prompt's template may name {examples} (some seeds as JSON), {count}, and {KEY} for the text of one seed. With --take answer the
    template, or without one the seed's own question, is asked, and what the model answers is learnt: so a large model teaches a small
    one. Exit code 1: it ended with fewer than --count, 7: with none.
    """
    sampling = Sampling(stop=stop, **drawn).clamped()
    if not model and not server:
        raise UsageError("No model is named.", hint="Name one by --model, or a --server.")
    recipe = Recipe(
        take=cast(Take, take), template=_read(template), shown=shown, each=each, system=system, seed=sampling.seed or time.time_ns()
    )
    loaded, wanted = load_seeds(seeds)
    check(recipe, loaded)
    order = _Order(
        model=model,
        where=Where(server=open_server(server, api_key_env, timeout) if server else None),
        recipe=recipe,
        sampling=sampling,
        seeds=loaded,
        seeds_file=seeds,
        wanted=wanted,
        count=count,
        inbox=_inbox(config_path, overrides, inbox),
        folder="" if priority == "normal" else priority,
    )
    if below is not None:
        _keep_filled(order, Refill(below, cooldown), as_json=as_json)
        return 0
    lineage = _make(order, quiet=as_json)
    if as_json:
        print_json(lineage)
    else:
        _show(lineage, order)
    if not lineage.accepted:
        hint = f"{order.inbox / RECORDS / lineage.job}.rejected.jsonl holds what came." if lineage.rejected else "Ask otherwise, or hotter."
        raise DataError(f"Nothing of use came: {_counts(lineage) or lineage.stopped}.", hint=hint)
    return 0 if lineage.accepted >= count else 1


def _make(order: _Order, *, quiet: bool) -> Lineage:
    """One job."""
    # Of two questions with the same words one is enough; but whom seeds themselves are asked, that is the point.
    known = Known(by_question=order.recipe.take == "examples")
    for seed in order.seeds:
        known.add(seed.example, SEEDS)
    known.add_inbox(order.inbox)
    with opened(order.model, order.where) as model, progress(f"asking {model.name}", total=order.count) as bar:
        outcome = Job(model, order.recipe, order.seeds, order.wanted, known, order.sampling).run(
            order.count, lambda came: bar.advance(bar.task_ids[0], came)
        )
        name, checkpoint = model.name, model.checkpoint
    if known.stats().unreadable and not quiet:
        note(f"{known.stats().unreadable} files of the inbox can't be read: what is in them was not compared with.")
    lineage = Lineage(
        job=new_id(),
        created=time.time_ns(),
        model=name,
        checkpoint=checkpoint,
        server=order.where.server.url if order.where.server else "",
        recipe=order.recipe,
        template=order.recipe.text,
        template_digest=digest(order.recipe.text.encode()),
        sampling=order.sampling,
        seeds_file=str(order.seeds_file),
        seeds_digest=digest(order.seeds_file.read_bytes()),
        format=order.wanted.name if order.recipe.take == "examples" else "messages",
    )
    return deliver(order.inbox, order.folder, lineage, outcome)


def _keep_filled(order: _Order, refill: Refill, *, as_json: bool) -> None:
    """Until Ctrl-C. What goes wrong is told, and tried again after the cooldown."""
    if not as_json:
        note(f"Watching {order.inbox}; Ctrl-C ends it.")
    never = threading.Event()
    while True:
        if refill.due(files_waiting(order.inbox), time.monotonic()):
            try:
                lineage = _make(order, quiet=as_json)
            except TrainbusError as error:
                print_error(error, as_json=as_json)
            else:
                if as_json:
                    click.echo(json_line(lineage))
                else:
                    note(f"{lineage.file or 'nothing'}: {lineage.accepted} new examples; {_counts(lineage) or 'none left out'}")
        never.wait(LOOK_SECONDS)


def files_waiting(inbox: Path) -> int:
    """Files that the trainer will come to: in the folder, and in the queue."""
    file = queue_file()
    queued = 0
    if file.exists():
        with Queue(file) as queue:
            queued = len(queue.jobs(WAITING))
    return queued + sum(1 for _ in data_files(inbox, waiting=True))


def _show(lineage: Lineage, order: _Order) -> None:
    rows = [
        ("new examples", f"{lineage.accepted:,} of {order.count:,}{f': {lineage.stopped}' if lineage.stopped else ''}"),
        ("file", str(order.inbox / lineage.file) if lineage.file else None),
        ("by", f"{lineage.model}{f' on {lineage.server}' if lineage.server else ''}, asked {number(lineage.prompts)} times"),
        ("no examples", _listed(lineage.rejected)),
        ("repeated", _listed(lineage.repeated)),
        ("lineage", str(order.inbox / RECORDS / f"{lineage.job}.json")),
    ]
    made = table("", "", rows=[row for row in rows if row[1]])
    made.show_header = False
    stdout().print(made)


def _counts(lineage: Lineage) -> str:
    told = [("no examples", sum(lineage.rejected.values())), ("repeated", sum(lineage.repeated.values()))]
    return ", ".join(f"{count:,} {what}" for what, count in told if count)


def _listed(counts: dict[str, int]) -> str:
    return "\n".join(f"{count:,} {what}" for what, count in counts.items())


def _read(template: Path | None) -> str:
    if template is None:
        return ""
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{template} can't be read: {error}", hint="It is a text file.", key="--template", file=str(template)) from error


def _inbox(config_path: Path | None, overrides: tuple[str, ...], given: str | None) -> Path:
    from trainbus.cli.train import read_settings

    folder = read_settings(config_path, overrides, {"inbox": given}).inbox
    if not folder:
        raise ConfigError("No inbox is named.", hint="Set trainer.inbox in trainbus.toml, or give --inbox.", key="trainer.inbox")
    return Path(folder).expanduser().absolute()
