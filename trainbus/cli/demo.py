"""``trainbus demo``."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from trainbus.cli import output
from trainbus.cli.options import json_option
from trainbus.errors import ConfigError, TrainbusError

if TYPE_CHECKING:
    from trainbus.demo.account import Account
    from trainbus.demo.stage import Stage
    from trainbus.demo.story import Story, Tell

STYLES = {"alert": "yellow", "fault": "bold red", "anomaly": "magenta", "retention": "blue", "inference": "cyan", "run": "green"}
END_SECONDS = 90.0
"""How long the plugins may take to finish after the training."""
SILENCE_SECONDS = 120.0
"""Without any event for so long, and with a training process that lives, something is wrong."""


@click.command()
@click.option("--exit", "leave", is_flag=True, help="End when the summary is printed, instead of leaving the page open.")
@click.option("--steps", type=click.IntRange(min=50), help="Training steps. Default: as many as fit into --seconds.")
@click.option("--seconds", type=click.FloatRange(min=5), default=120.0, show_default=True, help="How long to train, about.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), help="Work here and leave everything. Default: a temporary one."
)
@click.option("--no-browser", is_flag=True, help="Don't open the page.")
@click.option("--base-steps", type=click.IntRange(min=1), hidden=True, help="Steps of teaching the base model; for tests in a hurry.")
@json_option
def command(
    leave: bool, steps: int | None, seconds: float, directory: Path | None, no_browser: bool, base_steps: int | None, as_json: bool
) -> int:
    """Train a small model with all five plugins, break things on the way, and count what happened.

    Everything is made on this machine: tasks, a small Qwen3-style model, and a server that answers from its checkpoints. A plugin is
    killed, the learning rate goes wrong for some steps; the summary tells what each plugin saw and whether an event was lost. The exit
    code is 1 when something was not as promised.
    """
    from trainbus.demo.stage import Stage

    with _workspace(directory) as root:
        stage = Stage(root, base_steps=base_steps)
        try:
            account = _play(stage, steps, seconds, show_page=not (leave or no_browser or as_json))
            _print(account, as_json=as_json)
            if not leave and not as_json and sys.stdin.isatty():
                output.stderr().print(Text(f"The page stays open at {account.url} until you press Enter.", style="dim"))
                click.pause(info="")
        finally:
            output.note("stopping plugins, broker and server")
            stage.close()
    return 0 if account.ok else 1


@contextmanager
def _workspace(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty.", hint="Give --directory a new or empty one.", found=str(directory))
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="trainbus-demo-"))
    try:
        yield made.resolve()
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _play(stage: Stage, steps: int | None, seconds: float, *, show_page: bool) -> Account:
    from trainbus.bus.client import Client
    from trainbus.bus.subscriber import Subscriber
    from trainbus.demo.account import make_account, settled
    from trainbus.demo.stage import LEARNING_RATE
    from trainbus.demo.story import Story, wait

    began = time.monotonic()
    _prepare(stage, steps, seconds)
    report = stage.start_bus()
    url = next((plugin["url"] for plugin in report["plugins"] if plugin["name"] == "web"), "")
    output.stderr().print(Text.assemble("five plugins run; watch them at ", (url, "bold underline")))
    if show_page:
        webbrowser.open(url)
    with (
        Client(root=stage.home) as client,
        Subscriber(root=stage.home, start="beginning", decode=False) as reader,
        _bar(stage) as (bar, tell),
    ):
        story = Story(client, stage.steps, LEARNING_RATE, tell)
        heard = time.monotonic()

        def see(timeout: float) -> None:
            nonlocal heard
            record = reader.next(timeout)
            while record is not None:
                heard = time.monotonic()
                story.see(record)
                record = reader.next(0)
            _show(bar, story)
            if time.monotonic() - heard > SILENCE_SECONDS:
                raise TrainbusError(f"Nothing has been heard for {SILENCE_SECONDS:g} s.", hint=f"See the logs in {stage.root}.")

        stage.start_training()
        wait(stage.training_ended, see, seconds=24 * 3600)
        summary = stage.training_summary()
        wait(lambda: story.ended is not None, see, END_SECONDS)
        wait(lambda: story.examined() and bool(story.deleted) and settled(client), see, END_SECONDS)
        see(0.5)
        return make_account(client, story, summary, time.monotonic() - began)


def _prepare(stage: Stage, steps: int | None, seconds: float) -> None:
    stage.write_tasks()
    with output.progress("teaching a small base model to copy words", total=1.0) as bar:
        stage.make_base(seconds, steps, lambda fraction: bar.update(bar.task_ids[0], completed=fraction))
    url = stage.start_server()
    stage.write_config(url)
    output.stderr().print(f"a small Qwen3-style model is made; a server answers from it at {url}; {stage.steps} LoRA steps to come")


@contextmanager
def _bar(stage: Stage) -> Iterator[tuple[Progress, Tell]]:
    console = output.stderr()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("training", total=stage.steps, loss="")

        def tell(mark: str, sentence: str) -> None:
            bar.console.print(Text.assemble((f"{mark:>9}  ", STYLES.get(mark, "")), sentence))

        yield bar, tell


def _show(bar: Progress, story: Story) -> None:
    bar.update(bar.task_ids[0], completed=story.step, loss="" if story.loss is None else f"loss {story.loss:.3f}")


def _print(account: Account, *, as_json: bool) -> None:
    if as_json:
        output.print_json(account)
        return
    console = output.stdout()
    rows = [
        (line.plugin, output.state(line.state), str(line.restarts), str(line.lag), str(line.dead_letters), line.saw)
        for line in account.plugins
    ]
    console.print(
        output.table(
            "plugin",
            "state",
            "restarts",
            "lag",
            "dead letters",
            "what it saw",
            rows=rows,
            right=("restarts", "lag", "dead letters"),
            title="Plugins",
        )
    )
    checks = [(output.state("ok" if check.ok else "fail"), check.name, check.found) for check in account.checks]
    console.print(output.table("", "check", "found", rows=checks, title="Checks"))
    console.print(
        f"{account.published:,} events published by the training, {account.journaled:,} of them in the journal, "
        f"{account.delivered:,} delivered to the demo's own subscriber: "
        f"{account.lost} lost, {account.duplicated} twice, {account.gaps} gaps."
    )
    verdict = "everything held" if account.ok else "something was not as promised"
    console.print(Text(f"{verdict}, in {output.duration(account.seconds)}", style="bold green" if account.ok else "bold red"))
