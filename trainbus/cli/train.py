"""``trainbus train``: one fine-tuning job, or an inbox of them, with progress and a summary."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainbus.cli import output
from trainbus.cli.app import UsageError
from trainbus.cli.options import config_options, json_option

if TYPE_CHECKING:
    from trainbus.trainer_node.config import Summary, TrainerConfig

PLAIN_EVERY_SECONDS = 5.0
"""In a pipe or a log a line about progress comes this often."""

WAITING = ("paused", "no_room")
"""Phases that say nothing of how long a step takes."""


@click.command()
@click.argument("file", required=False)
@config_options
@click.option("--inbox", metavar="DIRECTORY", help="Train on every file that is put there, one after the other, in one continuous run.")
@click.option("--until-empty", is_flag=True, help="With an inbox: end when nothing waits any more.")
@click.option("--model", help="Model directory, hub name, or config:FILE.json for a fresh model.")
@click.option("--method", type=click.Choice(["full", "lora", "qlora"]), help="What is trained: all weights, or adapters.")
@click.option("--output", "output_path", metavar="DIRECTORY", help="Where checkpoints go. Default: runs/RUN.")
@click.option("--name", help="Name of the run. Default: the file's name.")
@click.option("--max-steps", type=int, help="Optimizer steps; overrides epochs.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--batch-size", type=int, help="Examples in a forward pass.")
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint in the output, as the same run.")
@click.option("--resume-from", metavar="CHECKPOINT", help="Go on from this checkpoint.")
@click.option("--unlock", is_flag=True, help="Go on also with another model, max_length or layout of the data than the run was begun with.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Say how much memory and time it would take, and train nothing.")
@json_option
def command(
    file: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    resume_from: str | None,
    unlock: bool,
    until_empty: bool,
    only_estimate: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Fine-tune a model on a FILE (or a hub data set), or on every file that comes into an inbox.

    FILE is JSON Lines (also .gz, .zst), a JSON list or Parquet. Without FILE, and with --inbox or trainer.inbox, this runs until it is
    stopped: it watches the folder, queues files that are wholly there (`trainbus queue` shows and edits the queue), and goes on with the
    same run for each.

    Settings come from [trainer] of the configuration; what is given here overrides them, and --set trainer.KEY=VALUE reaches all others.
    Ctrl-C saves a checkpoint and ends; a second one ends at once. Works with or without a running broker.
    """
    settings = read_settings(config_path, overrides, {"data": file, **given})
    if only_estimate:
        from trainbus.cli.estimate import show

        raise click.exceptions.Exit(show(settings, as_json=as_json))
    need_libraries()
    if not file and settings.inbox:
        if resume or resume_from:
            raise UsageError("An inbox always goes on where its run stands.", hint="Leave --resume and --resume-from out.")
        from trainbus.cli.inbox import run_inbox

        run_inbox(settings, until_empty=until_empty, unlock=unlock, as_json=as_json)
        return
    from trainbus.errors import TrainbusError
    from trainbus.trainer_node import records
    from trainbus.trainer_node.config import Resume
    from trainbus.trainer_node.job import run_job

    quiet_libraries()
    first = os.environ.get("RANK", "0") == "0"  # of several processes, one prints and keeps records
    started = time.monotonic()
    try:
        with Progress(quiet=as_json or not first) as observer:
            summary = run_job(settings, resume=Resume(wanted=resume, path=resume_from or "", unlock=unlock), observer=observer)
    except TrainbusError as error:
        if first:
            records.append(records.of_failure(settings, "", settings.data, error.problem, time.monotonic() - started))
        raise
    if first:
        records.append(records.of_summary(settings, summary, settings.data))
        if as_json:
            output.print_json(summary)
        else:
            _print_summary(summary, settings.batch_size)
    if summary.outcome == "failed":
        raise click.exceptions.Exit(1)


def read_settings(config_path: Path | None, overrides: tuple[str, ...], given: dict[str, Any]) -> TrainerConfig:
    """``[trainer]`` of the configuration with what options say in its place."""
    from trainbus.bus.config_file import Origin, load, validate_section
    from trainbus.trainer_node.config import TrainerConfig

    loaded = load(config_path, overrides=overrides)
    named = {{"output_path": "output"}.get(key, key): value for key, value in given.items() if value is not None}
    origins = dict(loaded.origins)
    for key in named:
        option = "FILE" if key == "data" else f"--{key.replace('_', '-')}"
        origins[f"trainer.{key}"] = Origin(source="option", where=option)
    return validate_section({**loaded.config.trainer, **named}, TrainerConfig, "trainer", file=loaded.file, origins=origins)


def need_libraries() -> None:
    """Refuse to go on without the libraries of the extra ``trainer``."""
    from importlib.util import find_spec

    from trainbus.errors import ModelError

    missing = [name for name in ("torch", "transformers", "peft", "xxhash") if find_spec(name) is None]
    if missing:
        hint = "Install them: pip install 'trainbus[trainer]'"
        raise ModelError(f"Training needs libraries that are not installed: {', '.join(missing)}.", hint=hint, missing=missing)


def quiet_libraries() -> None:
    """Their bars and remarks would tear ours apart; warnings of what is really wrong still come."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that only 4-bit models on a CPU would use
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class Progress:
    """Shows a job: a bar on a terminal, lines elsewhere, nothing when ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._throttle: Any = None
        self._pace: Any = None

    def __enter__(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        from trainbus.trainer_node.observer import Throttle
        from trainbus.trainer_node.pace import Pace

        self._throttle = Throttle(PLAIN_EVERY_SECONDS)
        self._pace = Pace()
        console = output.stderr()
        if console.is_terminal and not self._quiet:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
            self._bar = Bar(*columns, TextColumn("{task.fields[told]}"), console=console, transient=True)
            self._task = self._bar.add_task("start", total=None, told="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def phase(self, name: str) -> None:
        """A phase begins."""
        if name in WAITING:
            self._pace.forget()
        words = name.replace("_", " ")
        if self._bar is not None:
            self._bar.update(self._task, description=words, completed=0, total=None, told="")
        elif not self._quiet:
            output.note(words)

    def progress(self, fraction: float) -> None:
        """How far the phase is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=round(100 * fraction), total=100)

    def step(self, step: int, total: int, loss: float) -> None:
        """An optimizer step is done."""
        from trainbus.trainer_node.pace import words

        self._pace.add(step, time.monotonic())
        left = self._pace.left(total)
        told = f"loss {loss:.4f}" + (f"  {words(left)} left" if left is not None and step < total else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=total, told=told)
        elif not self._quiet and (self._throttle.ready() or step == total):
            output.note(f"step {step}/{total}  {told}")

    def note(self, text: str) -> None:
        """A remark."""
        if self._bar is not None:
            self._bar.console.print(text, style="dim")
        elif not self._quiet:
            output.note(text)


def _print_summary(summary: Summary, batch_size: int) -> None:
    from rich.text import Text

    rows: list[tuple[str, Any]] = [
        ("outcome", Text.assemble(output.state(summary.outcome), f"  {summary.reason}" if summary.reason else "")),
        ("run", summary.run),
        ("steps", _steps(summary)),
        ("loss", f"{output.number(summary.loss_first)} → {output.number(summary.loss_last)}"),
        ("evaluation", "  ".join(f"{name} {output.number(value)}" for name, value in summary.metrics.items()) or None),
        ("time", f"{output.duration(summary.seconds)}  ({summary.tokens_per_second:,.0f} tokens/s, padding included)"),
        ("seen", f"{summary.examples:,} examples, {summary.tokens:,} tokens"),
        ("memory", _memory(summary, batch_size)),
        ("checkpoints", "\n".join(summary.checkpoints[-3:]) or None),
        ("output", summary.output),
    ]
    table = output.table("", "", rows=[row for row in rows if row[1] is not None])
    table.show_header = False
    output.stdout().print(table)
    if summary.outcome == "stopped":
        output.note(f"go on: trainbus train ... --output {summary.output} --resume")


def _memory(summary: Summary, batch_size: int) -> str | None:
    """The peak, and the batch size that it leaves room for."""
    from trainbus.cli.hardware import look
    from trainbus.trainer_node.estimate import advise_batch

    if summary.peak_memory is None or not (devices := look(Path()).devices):
        return None
    advised = advise_batch(batch_size, summary.peak_memory, devices[0].total)
    more = f"; batch_size = {advised} would use it better" if advised > batch_size else ""
    return f"at most {output.size(summary.peak_memory)} of {output.size(devices[0].total)}{more}"


def _steps(summary: Summary) -> str:
    since = f", resumed at {summary.resumed_step}" if summary.resumed_step is not None else ""
    return f"{summary.steps:,} of {summary.total_steps:,}{since}"
