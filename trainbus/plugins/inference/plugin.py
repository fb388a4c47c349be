"""Remote inference as a plugin: complete checkpoints go into a durable queue, which a background task works through."""

from __future__ import annotations

import asyncio
import socket
import zlib

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context, Panel, hookimpl
from trainbus.plugins.inference.config import InferenceConfig, api_key, check
from trainbus.plugins.inference.examiner import Examiner
from trainbus.plugins.inference.exams import load_exam
from trainbus.plugins.inference.harness import check_harness
from trainbus.plugins.inference.harness_sitting import tasks_of
from trainbus.plugins.inference.leaks import leaks, training_file
from trainbus.plugins.inference.schedule import Schedule


class InferencePlugin:
    """Examines each checkpoint on a server of its own, while training goes on."""

    def __init__(self) -> None:
        self.examiner: Examiner | None = None
        self._schedule: Schedule | None = None
        self._work: asyncio.Task[None] | None = None

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """Settings of ``[plugin.inference]``."""
        return InferenceConfig

    @hookimpl
    def web_panels(self) -> list[Panel]:
        """Evaluations with their accuracy, the interval of that, and whether a checkpoint differs from the one before."""
        fields = ("step", "dataset", "metrics.accuracy", "metrics.accuracy_low", "metrics.accuracy_high")
        compared = ("evidence.compared.better", "evidence.compared.worse", "evidence.compared.p_value", "checkpoint")
        return [Panel(id="examined", title="Evaluations", kind="table", events="eval", fields=(*fields, *compared))]

    @hookimpl
    async def start(self, context: Context) -> None:
        """Read the questions and go on with what was waiting when the plugin ended.

        Raises:
            ConfigError: A setting can't work.
            DataError: A file of questions is malformed.
            PluginError: A third party's scorer can't be imported, or lm-evaluation-harness is asked for and not installed.
        """
        config = context.config
        if not isinstance(config, InferenceConfig):
            raise ConfigError("plugin.inference has no settings.", hint="The host gives a plugin an instance of its config schema.")
        check(config)
        check_harness(config.harness)
        key = api_key(config)
        sets = config.all_sets()
        exams = [await asyncio.to_thread(load_exam, one, config) for one in sets]
        self._schedule = Schedule(context.state, [*sets, *tasks_of(config)])
        self.examiner = Examiner(config, exams, key, context)
        self._work = asyncio.create_task(self.examiner.run())
        told = ", ".join(f"{len(exam.questions)} questions of {exam.settings.questions}" for exam in exams)
        context.logger.info("%s for %s; %d checkpoints wait", told, config.url, self.examiner.stats().behind)

    @hookimpl
    async def stop(self, context: Context) -> None:
        """End the work at hand; the checkpoint stays in the queue and its lease is given back."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    @hookimpl
    async def on_run_started(self, event: events.RunStarted, context: Context) -> None:
        """Look whether the run is trained on the questions, where its file is at hand; a repeat tells the same alert."""
        path = training_file(event, socket.gethostname())
        if self.examiner is None or path is None:
            return
        try:
            found = await asyncio.to_thread(leaks, path, self.examiner.exams)
        except (OSError, EOFError, zlib.error) as error:
            context.logger.info("whether %s holds questions is not known: %s", path, error)
            return
        for leak in found:
            self.examiner.reporter.leaked(event.run, leak, path)

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """A complete checkpoint waits to be examined; a deleted one no longer does. A repeat changes nothing."""
        if self.examiner is None or self._schedule is None or not event.id:
            return
        queue = self.examiner.queue
        if event.state == "complete" and not queue.knows(event.id):
            due, kept = self._schedule.due(event)
            if due:
                queue.add(event, due, kept)
                self.examiner.changed(event.run, event.step)
            else:
                queue.finish(event.id)
        elif event.state == "deleted":
            queue.remove(event.id)
            self.examiner.changed(event.run, event.step)
