"""``trainbus queue``: the data files that wait for the trainer, and what became of the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import click

from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import age, note, number, print_json, print_table, size, state, table
from trainbus.errors import ConfigError, DataError
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.inspection import glance
from trainbus.trainer_node.dataset.reading import reading_of
from trainbus.trainer_node.inbox.daemon import queue_file
from trainbus.trainer_node.inbox.forecast import forecast, told
from trainbus.trainer_node.inbox.intake import Intake, set_aside
from trainbus.trainer_node.inbox.queue import HELD, PAUSED, PRIORITIES, STATES, WAITING, Job, Priority, Queue


@click.group(name="queue")
def command() -> None:
    """The queue of `trainbus train --inbox`. It may be edited while the trainer runs, and while it doesn't.

    JOB is an id, its beginning, or a file name.
    """


@command.command()
@json_option
def status(as_json: bool) -> None:
    """Count the jobs of each state, and say when the queue will be done."""
    with _queue() as queue:
        found = {word: queue.jobs((word,)) for word in STATES}
        end = forecast(queue)
        said = {name: flag for name in (PAUSED, HELD) if (flag := queue.flag(name)) is not None}
    if as_json:
        print_json(found)
        return
    rows = ((state(word), number(len(jobs)), size(sum(job.bytes for job in jobs))) for word, jobs in found.items())
    print_table(table("state", "files", "size", rows=rows, right=("files", "size")), empty="")
    for name, flag in said.items():
        click.echo(f"{name} {flag.since}")
    click.echo(told(end))


@command.command()
@json_option
def eta(as_json: bool) -> None:
    """When the queue will be done, by the pace of the files that are done, with an 80 % interval."""
    with _queue() as queue:
        found = forecast(queue)
    if as_json:
        print_json(found)
    else:
        click.echo(told(found))


@command.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also what is completed or failed.")
@json_option
def list_(everything: bool, as_json: bool) -> None:
    """List what is trained on and what waits, in the order in which it will be taken, and what was skipped."""
    with _queue() as queue:
        jobs = queue.jobs(("processing",)) + queue.jobs(WAITING) + queue.jobs(("skipped",))
        jobs += queue.jobs(("completed", "failed")) if everything else []
    if as_json:
        print_json(jobs)
        return
    rows = (
        (job.id, job.name, state(job.state), job.priority, number(job.attempts), size(job.bytes), age(job.added), job.reason)
        for job in jobs
    )
    made = table("id", "file", "state", "priority", "attempts", "size", "added", "reason", rows=rows, right=("attempts", "size"))
    print_table(made, empty="Nothing waits. Put files into the inbox, or: trainbus queue add FILE")


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@config_options
@click.option("--inbox", metavar="DIRECTORY", help="The inbox; default: trainer.inbox.")
@json_option
def add(
    files: tuple[Path, ...], priority: str, config_path: Path | None, overrides: tuple[str, ...], inbox: str | None, as_json: bool
) -> int:
    """Queue copies of FILES at once. The originals stay. Exit code 1 when one was refused."""
    for file in files:
        if not file.is_file():
            raise DataError(f"There is no file {file}.", hint="Check the path.", file=str(file))
    with _queue() as queue:
        settings = _settings(config_path, overrides, inbox)
        look = partial(glance, reading=reading_of(settings))
        intake = Intake(Path(settings.inbox), queue, settle=0.0, glance=look)
        taken = [intake.take(file.absolute(), cast(Priority, priority), copy=True) for file in files]
    if as_json:
        print_json(taken)
    else:
        for one in taken:
            note(f"{one.job.name}: {f'refused: {one.refused}' if one.refused else f'waits as {one.job.id}'}")
    return 1 if any(one.refused for one in taken) else 0


@command.command(name="set-priority")
@click.argument("job")
@click.argument("priority", type=click.Choice(PRIORITIES))
@json_option
def set_priority(job: str, priority: str, as_json: bool) -> None:
    """Give a waiting JOB another priority."""
    with _queue() as queue:
        _tell(queue.prioritise(queue.find(job), cast(Priority, priority)), f"now {priority}", as_json)


@command.command()
@click.argument("job")
@click.argument("before")
@json_option
def move(job: str, before: str, as_json: bool) -> None:
    """Put a waiting JOB right BEFORE another one."""
    with _queue() as queue:
        _tell(queue.reorder(queue.find(job), queue.find(before)), f"now before {before}", as_json)


@command.command()
@click.argument("job")
@json_option
def remove(job: str, as_json: bool) -> None:
    """Take a JOB out of the queue. Its file moves to the folder failed/ of the inbox."""
    with _queue() as queue:
        removed = queue.remove(queue.find(job))
    _tell(removed, f"removed; its file is {set_aside(removed)}", as_json)


@command.command()
@click.argument("job")
@config_options
@click.option("--inbox", metavar="DIRECTORY", help="The inbox; default: trainer.inbox.")
@json_option
def retry(job: str, config_path: Path | None, overrides: tuple[str, ...], inbox: str | None, as_json: bool) -> None:
    """Let a failed or skipped JOB wait again, with all attempts before it. A skipped one goes on where it stands."""
    with _queue() as queue:
        found = queue.find(job)
        queue.check_retry(found)
        intake = Intake(Path(_settings(config_path, overrides, inbox).inbox), queue, settle=0.0)
        _tell(queue.retry(found, path=intake.bring_back(found)), "waits again", as_json)


@contextmanager
def _queue() -> Iterator[Queue]:
    with Queue(queue_file()) as queue:
        yield queue


def _settings(config_path: Path | None, overrides: tuple[str, ...], inbox: str | None) -> TrainerConfig:
    from trainbus.cli.train import read_settings

    settings = read_settings(config_path, overrides, {"inbox": inbox})
    if not settings.inbox:
        raise ConfigError("No inbox is named.", hint="Set trainer.inbox in trainbus.toml, or give --inbox.", key="trainer.inbox")
    return settings


def _tell(job: Job, text: str, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        note(f"{job.name}: {text}")
