"""``trainbus train --inbox``: what a person sees of the daemon."""

from __future__ import annotations

import click
import msgspec

from trainbus.cli import output
from trainbus.cli.train import Progress
from trainbus.launch.inquest import LaunchInquest
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.inbox.daemon import Daemon
from trainbus.trainer_node.inbox.queue import Job


class Told(msgspec.Struct):
    """A line of ``--json``: a job changed its state."""

    job: Job
    text: str


def run_inbox(config: TrainerConfig, *, until_empty: bool, unlock: bool, as_json: bool) -> None:
    """Run the daemon and show it: a bar and a line for each change, or with ``as_json`` one object a line."""
    with Progress(quiet=as_json) as progress:
        teller = _Teller(progress, as_json=as_json)
        Daemon(config, teller, until_empty=until_empty, unlock=unlock, inquests=LaunchInquest).run()


class _Teller:
    def __init__(self, progress: Progress, *, as_json: bool) -> None:
        self._progress = progress
        self._as_json = as_json
        self._phase = ""

    def job(self, job: Job, text: str) -> None:
        """A job changed its state."""
        if self._as_json:
            click.echo(output.json_line(Told(job, text)))
        else:
            self._progress.note(f"{job.name}: {text}")

    def message(self, message: messages.Message) -> None:
        """The worker says something."""
        if isinstance(message, messages.Phase):
            if message.name != self._phase:
                self._phase = message.name
                self._progress.phase(message.name)
        elif isinstance(message, messages.Progress):
            self._progress.progress(message.fraction)
        elif isinstance(message, messages.Step):
            self._progress.step(message.step, message.total, message.loss)
        elif isinstance(message, messages.Note):
            self._progress.note(message.text)

    def note(self, text: str) -> None:
        """A remark."""
        self._progress.note(text)
